"""The path of a prediction request, from headers to the answer's bytes, in the order of the design's table."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from starlette.types import Receive

from model_store.errors import ImageError
from service.engine.batcher import ImageResult
from service.engine.loaded_version import LoadedVersion
from service.errors import DeadlineExceededError, EveryImageFailedError, ServiceError, describe
from service.http.protocol import DirectTransport
from service.http.query_params import QueryParams, parse_query_params
from service.http.request_body import Encoded, check_headers, read_body, read_images
from service.prediction.admission import Admission, ModelCapacity, UploadBudget
from service.prediction.decode_pool import DecodePool, is_small
from service.prediction.response import answer
from service.settings import Settings
from service.versions.registry import Registry

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image: its answer or its error, and how long decoding took."""

    result: ImageResult | ServiceError | ImageError
    decode_seconds: float


@dataclass(slots=True)
class PredictRequest:
    """A prediction request as it came, but for its path: headers by lower-case name, the query string, and two ways to its body."""

    headers: Mapping[str, str]
    query: bytes
    receive: Receive
    exchange: DirectTransport | None


@dataclass(slots=True)
class RequestRecord:
    """What is known of one request as it goes its way: what is logged and counted of it, also where it ends in an error."""

    began: float = field(default_factory=time.monotonic)
    model: str = ""
    version: int = 0
    images: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage: receive, decode, queue, inference."""
    failed_images: int = 0


class PredictionPipeline:
    """Answers prediction requests; one for each service."""

    def __init__(
        self, settings: Settings, registry: Registry, decoders: DecodePool, decodes_at_once: int
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._decoders = decoders
        self._decodes_at_once = decodes_at_once
        self._uploads = UploadBudget(settings.max_upload_bytes)
        self._capacities: dict[str, ModelCapacity] = {}

    async def predict(
        self, asked: PredictRequest, model: str | None, version: int | None, seen: RequestRecord
    ) -> tuple[bytes, Mapping[str, str]]:
        """Classify the images of one request: the answer's body and headers. Raises ServiceError, ImageError for it as a whole."""
        settings = self._settings
        found = self._registry.find(
            model, version
        )  # a model that is not there is refused before its images are read
        seen.model, seen.version = found.version.model, found.version.number
        parameters = parse_query_params(asked.query, found)
        check_headers(asked.headers, settings.max_body_bytes)
        self._admission(found).check_room(parameters.priority)
        with self._uploads.upload() as hold:
            body = await self._read_body(asked, hold)
            images = read_images(asked.headers, body, settings.max_images)
            received = time.monotonic()
            seen.seconds["receive"] = received - seen.began
            with self._registry.lease(
                seen.model, version
            ) as served:  # another may be the default by now
                seen.version, seen.images = served.version.number, len(images)
                # Another version may have come since, with other sets of labels.
                set_index = (
                    None
                    if parameters.coverage is None
                    else served.find_coverage(parameters.coverage)
                )
                decode_seconds = self._decoders.wait_seconds()
                if decode_seconds and all(
                    isinstance(image, ServiceError) or is_small(image) for image in images
                ):
                    decode_seconds = 0.0  # they need no worker
                deadline = seen.began + parameters.timeout_seconds(served.options.deadline_seconds)
                with self._admission(served).queue(
                    len(images), deadline - received, parameters.priority, decode_seconds
                ):
                    outcomes = await self._classify(
                        images, served, deadline, parameters, DisconnectGuard(asked)
                    )
                return _answer(served, outcomes, parameters.top_k, set_index, seen)

    def _admission(self, served: LoadedVersion) -> Admission:
        """The queue of one version; all versions of a model share its capacity."""
        capacity = self._capacities.get(served.version.model)
        if capacity is None:
            capacity = ModelCapacity(served.options.max_queue_size)
            self._capacities[served.version.model] = capacity
        return Admission(capacity, served.admitted, served.wait_estimate.seconds)

    async def _read_body(self, asked: PredictRequest, hold: Callable[[int], None]) -> bytes:
        """The body, at once where it has come with its head."""
        settings = self._settings
        body = asked.exchange.take_body(settings.max_body_bytes) if asked.exchange else None
        if body is None:
            return await read_body(
                asked.receive, settings.max_body_bytes, settings.body_timeout_seconds, hold
            )
        hold(len(body))
        return body

    async def _classify(
        self,
        images: Sequence[Encoded],
        served: LoadedVersion,
        deadline: float,
        parameters: QueryParams,
        leaving: "DisconnectGuard",
    ) -> list[Outcome]:
        """Every image's outcome. Drops them and raises where the client leaves first, or the deadline passes."""
        (first, *others) = images
        began = time.monotonic()
        if began > deadline:
            raise DeadlineExceededError("the deadline passed before the image was decoded")
        pixels = (
            None
            if others or isinstance(first, ServiceError)
            else self._decoders.decode_small(first, served.preprocessing)
        )
        if pixels is None:
            work = asyncio.ensure_future(self._classify_all(images, served, deadline, parameters))
            return await leaving.unless(work, deadline)
        decode_seconds = time.monotonic() - began
        row = await leaving.unless(
            served.batcher.submit(pixels, deadline, parameters.priority), deadline
        )
        return [Outcome(row, decode_seconds)]

    async def _classify_all(
        self,
        images: Sequence[Encoded],
        served: LoadedVersion,
        deadline: float,
        parameters: QueryParams,
    ) -> list[Outcome]:
        turn = asyncio.Semaphore(self._decodes_at_once)
        async with (
            asyncio.TaskGroup() as group
        ):  # none of them outlives the request, and with it the lease
            tasks = [
                group.create_task(self._classify_one(image, served, deadline, parameters, turn))
                for image in images
            ]
        return [task.result() for task in tasks]

    async def _classify_one(
        self,
        image: Encoded,
        served: LoadedVersion,
        deadline: float,
        parameters: QueryParams,
        turn: asyncio.Semaphore,
    ) -> Outcome:
        """Decode one image and wait for its row; its errors are its own."""
        if isinstance(image, ServiceError):
            return Outcome(image, 0.0)
        began = time.monotonic()
        try:
            async with turn:  # one request never holds every place
                pixels = self._decoders.decode_small(image, served.preprocessing)
                if pixels is None:
                    pixels = await self._decoders.decode(
                        image, served.preprocessing, deadline, parameters.priority
                    )
                else:
                    await asyncio.sleep(0)  # nor the event loop
        except (ImageError, ServiceError) as error:
            return Outcome(error, time.monotonic() - began)
        decode_seconds = time.monotonic() - began
        try:
            return Outcome(
                await served.batcher.submit(pixels, deadline, parameters.priority), decode_seconds
            )
        except ServiceError as error:
            return Outcome(error, decode_seconds)


class ClientDisconnectedError(Exception):
    """The client has left, so there is no one to answer; its images were dropped."""


class DisconnectGuard:
    """Knows when a client leaves whose body was read: our own protocol tells, another server's next message can only be that."""

    def __init__(self, asked: PredictRequest) -> None:
        self._told = asked.exchange and asked.exchange.left
        self._receive = asked.receive

    async def unless(self, work: asyncio.Future[Result], deadline: float) -> Result:
        """The work's result. Cancels it and raises ClientDisconnectedError, DeadlineExceededError where that comes first."""
        left: asyncio.Future[Any] = self._told or asyncio.ensure_future(self._receive())
        late = False

        def leave(_: object) -> None:
            work.cancel()

        def expire() -> None:
            nonlocal late
            late = work.cancel()

        left.add_done_callback(leave)
        alarm = asyncio.get_running_loop().call_later(max(0.0, deadline - time.monotonic()), expire)
        try:
            return (
                await work
            )  # ends with the last of it, also when it was cancelled: the lease must not end before
        except asyncio.CancelledError:
            if late:
                raise DeadlineExceededError(
                    "the deadline passed before the answer was there"
                ) from None
            if left.done():
                raise ClientDisconnectedError from None
            raise
        finally:
            alarm.cancel()
            left.remove_done_callback(leave)
            if self._told is None:
                left.cancel()


def _answer(
    served: LoadedVersion,
    outcomes: Sequence[Outcome],
    top_k: int,
    set_index: int | None,
    seen: RequestRecord,
) -> tuple[bytes, Mapping[str, str]]:
    answers = [outcome.result for outcome in outcomes if isinstance(outcome.result, ImageResult)]
    errors = [outcome.result for outcome in outcomes if not isinstance(outcome.result, ImageResult)]
    seen.seconds["decode"] = max(outcome.decode_seconds for outcome in outcomes)
    if not answers:
        raise errors[0] if len(errors) == 1 else EveryImageFailedError(errors)
    seen.seconds["queue"] = max(answer.queue_seconds for answer in answers)
    seen.seconds["inference"] = max(answer.inference_seconds for answer in answers)
    seen.failed_images = len(errors)
    results = [
        answer(outcome.result.row, served.version.manifest.class_names, top_k, set_index)
        if isinstance(outcome.result, ImageResult)
        else {"error": describe(outcome.result)}
        for outcome in outcomes
    ]
    timings = {f"{stage}_ms": round(seconds * 1e3, 3) for stage, seconds in seen.seconds.items()}
    timings["total_ms"] = round((time.monotonic() - seen.began) * 1e3, 3)
    document = {
        "model": seen.model,
        "version": seen.version,
        "results": results,
        "timings": timings,
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE), served.headers
