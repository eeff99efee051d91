"""The path of a prediction request, from headers to the answer's bytes, in the order of the design's table."""

import asyncio
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from model_store.errors import ImageError
from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, open_image, prepare, resized_size, to_pixels
from service.admission import Admission
from service.batcher import Answer
from service.errors import BadRequestError, DeadlineExceededError, EveryImageFailedError, ServiceError, describe
from service.images import Encoded, check_headers, read_body, read_images
from service.postprocessing import answer
from service.registry import Registry
from service.served_version import ServedVersion
from service.settings import Settings

DEFAULT_TOP_K: Final = 5
INLINE_BYTES: Final = 16 * 1024
INLINE_PIXELS: Final = 128 * 128
"""Images up to this size decode in well under a millisecond, so a hop to another thread would cost more than it saves."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image: its answer or its error, and how long decoding took."""

    result: Answer | ServiceError | ImageError
    decode_seconds: float


class Predictor:
    """Answers prediction requests; one for each service."""

    def __init__(self, settings: Settings, registry: Registry, decoders: ThreadPoolExecutor, decode_workers: int) -> None:
        self._settings = settings
        self._decodes_at_once = max(1, decode_workers // 2)
        self._registry = registry
        self._decoders = decoders
        self._admission = Admission(settings.max_upload_bytes, settings.max_queue_size)

    async def predict(self, request: Request, model: str | None, version: int | None) -> Response:
        """Classify the images of one request. Raises ServiceError for the request as a whole."""
        settings = self._settings
        began = time.monotonic()
        found = self._registry.find(model, version)  # a model that is not there is refused before its images are read
        top_k, coverage = _read_top_k(request), request.query_params.get("coverage")
        if coverage is not None:
            found.find_coverage(coverage)
        check_headers(request.headers, settings.max_body_bytes)
        with self._admission.upload() as hold:
            body = await read_body(request, settings.max_body_bytes, settings.body_timeout_seconds, hold)
            images = read_images(request.headers, body, settings.max_images)
            received = time.monotonic()
            with self._admission.queue(len(images)), self._registry.lease(model, version) as served:
                set_index = None if coverage is None else served.find_coverage(coverage)  # another version may have come
                deadline = began + settings.deadline_seconds
                work = asyncio.ensure_future(self._classify_all(images, served, deadline))
                outcomes = await _unless_disconnected(request, work, deadline)
        return _answer(served, outcomes, top_k, set_index, began, received)

    async def _classify_all(self, images: Sequence[Encoded], served: ServedVersion, deadline: float) -> list[Outcome]:
        turn = asyncio.Semaphore(self._decodes_at_once)
        async with asyncio.TaskGroup() as group:  # none of them outlives the request, and with it the lease
            tasks = [group.create_task(self._classify(image, served, deadline, turn)) for image in images]
        return [task.result() for task in tasks]

    async def _classify(self, image: Encoded, served: ServedVersion, deadline: float, turn: asyncio.Semaphore) -> Outcome:
        """Decode one image and wait for its row; its errors are its own."""
        if isinstance(image, ServiceError):
            return Outcome(image, 0.0)
        began = time.monotonic()
        try:
            pixels = await self._decode(image, served.version.manifest.preprocessing, deadline, turn)
        except (ImageError, ServiceError) as error:
            return Outcome(error, time.monotonic() - began)
        decode_seconds = time.monotonic() - began
        try:
            return Outcome(await served.batcher.submit(pixels, deadline), decode_seconds)
        except ServiceError as error:
            return Outcome(error, decode_seconds)

    async def _decode(self, image: bytes, spec: Preprocessing, deadline: float, turn: asyncio.Semaphore) -> Pixels:
        """Small images at once, all others in the pool, where one request never holds every place."""
        max_pixels = self._settings.max_pixels
        if len(image) <= INLINE_BYTES:  # a header, too, can be made to cost seconds
            opened = open_image(image, spec, max_pixels)
            resized_width, resized_height = resized_size(opened.width, opened.height, spec)
            if max(opened.width * opened.height, resized_width * resized_height) <= INLINE_PIXELS:
                return to_pixels(opened, spec)

        def decode() -> Pixels:
            if time.monotonic() > deadline:
                raise DeadlineExceededError("the deadline passed while the image waited to be decoded")
            return prepare(image, spec, max_pixels)

        async with turn:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, decode)


class ClientDisconnectedError(Exception):
    """The client has left, so there is no one to answer; its images were dropped."""


async def _unless_disconnected(request: Request, work: asyncio.Future[list[Outcome]], deadline: float) -> list[Outcome]:
    """The work's result. Cancels it and raises when the client leaves first, or the deadline passes."""
    # The body is read, so the next message can only be the disconnect.
    leaving: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait([work, leaving], timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if not leaving.done():
            raise DeadlineExceededError("the deadline passed before the answer was there")
        raise ClientDisconnectedError
    finally:
        leaving.cancel()
        work.cancel()
        await asyncio.wait([work])  # the lease must not end before the last of it


def _read_top_k(request: Request) -> int:
    text = request.query_params.get("top_k", str(DEFAULT_TOP_K))
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise BadRequestError(f"top_k must be a whole number from 1 up, not {text[:40]!r}", code="invalid_parameter")
    return int(text)


def _answer(
    served: ServedVersion, outcomes: Sequence[Outcome], top_k: int, set_index: int | None, began: float, received: float
) -> Response:
    class_names = served.version.manifest.class_names
    answers = [outcome.result for outcome in outcomes if isinstance(outcome.result, Answer)]
    errors = [outcome.result for outcome in outcomes if not isinstance(outcome.result, Answer)]
    if not answers:
        raise _every_image_failed(errors)
    results = [
        answer(outcome.result.row, class_names, top_k, set_index)
        if isinstance(outcome.result, Answer)
        else {"error": describe(outcome.result)}
        for outcome in outcomes
    ]
    timings = {
        "receive_ms": received - began,
        "decode_ms": max(outcome.decode_seconds for outcome in outcomes),
        "queue_ms": max(answer.queue_seconds for answer in answers),
        "inference_ms": max(answer.inference_seconds for answer in answers),
        "total_ms": time.monotonic() - began,
    }
    document = {
        "model": served.version.model,
        "version": served.version.number,
        "results": results,
        "timings": {name: round(seconds * 1e3, 3) for name, seconds in timings.items()},
    }
    headers = {"model-digest": f"sha256:{served.version.digest}"}
    return Response(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE), headers=headers, media_type="application/json")


def _every_image_failed(errors: Sequence[ServiceError | ImageError]) -> Exception:
    """One image: its own error. Several: one error that lists them, with their status and code where they agree."""
    if len(errors) == 1:
        return errors[0]
    return EveryImageFailedError(errors)
