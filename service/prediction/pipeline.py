"""The prediction pipeline: admit, decode, batch, run.

It is independent of HTTP; `service.http` translates requests and responses.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np

from model_store.errors import ImageError
from model_store.preprocessing import Pixels
from service.engine.loaded_version import LoadedVersion
from service.engine.priority import INTERACTIVE, Priority
from service.engine.queued_image import BatchTrace, ImageResult
from service.errors import (
    DeadlineExceededError,
    EveryImageFailedError,
    ImageUrlError,
    OverloadedError,
    ServiceError,
)
from service.prediction.admission import Admission, ModelCapacity, UploadBudget
from service.prediction.cancellation import finish
from service.prediction.decode_pool import DecodePool, is_small
from service.prediction.image_fetcher import ImageFetcher
from service.prediction.request import EncodedImage, ImageOutcome, PredictRequest, RequestRecord
from service.versions.alias_lookup import find_alias_version
from service.versions.registry import Registry

T = TypeVar("T")


class PredictionPipeline:
    """Runs prediction requests.

    A caller leases a version, reads its request, and calls `predict` before it returns the lease.
    """

    def __init__(
        self,
        registry: Registry,
        decode_pool: DecodePool,
        uploads: UploadBudget,
        decodes_per_request: int,
        fetcher: ImageFetcher | None = None,
    ) -> None:
        self.uploads = uploads
        self.registry = registry
        self._decode_pool = decode_pool
        self._decodes_per_request = decodes_per_request
        self._fetcher = fetcher
        self._capacities: dict[str, ModelCapacity] = {}

    def lease(
        self, model: str | None, version: int | None
    ) -> AbstractContextManager[LoadedVersion]:
        """Look up a version, and keep it loaded until the context ends.

        Lease once per request, until the response is built. A version that is unloaded meanwhile
        drains for at most the body timeout plus the deadline.

        Raises:
            NotFoundError: No such model or version is served.
            NotReadyError: The model has no version that serves.
        """
        return self.registry.lease(model, version)

    async def find_alias(self, model: str | None, alias: str) -> int | None:
        """The version to lease for an alias; None for the one that serves without a version.

        That one also serves if the newest version of its alias has failed.

        Raises:
            NotFoundError: The model has no such alias.
            NotReadyError: The alias cannot be read.
        """
        name = model or self.registry.default_model
        if name is None or name not in self.registry.models:
            return None
        if alias == self.registry.policy_of(name).alias:
            return None
        return await asyncio.to_thread(find_alias_version, self.registry, name, alias)

    def check_queue(self, loaded: LoadedVersion, priority: Priority) -> None:
        """Raise OverloadedError if the queue is full. Called before the body is read."""
        self._admission(loaded).check_queue(priority)

    def find_full(self, model: str | None, version: int | None) -> LoadedVersion | None:
        """The version of an interactive image if the queue of its model is full, else None."""
        capacity = self._capacities.get(model or self.registry.default_model or "")
        if capacity is None or not capacity.is_full(INTERACTIVE):
            return None
        try:
            return self.registry.find(model, version)
        except ServiceError:
            return None

    def queue_full_error(self, loaded: LoadedVersion) -> OverloadedError:
        """The error for an interactive image while the queue is full."""
        return self._admission(loaded).queue_full(1, INTERACTIVE)

    async def fetch(
        self,
        loaded: LoadedVersion,
        request: PredictRequest,
        record: RequestRecord,
        reserve: Callable[[int], None],
        disconnected: asyncio.Future[Any],
    ) -> None:
        """Replace the image URLs of a request by the images behind them, if that is allowed.

        Args:
            loaded: The version, leased by the caller.
            request: What to classify and how.
            record: When it started.
            reserve: Called with the bytes that arrive; may raise ServiceError.
            disconnected: Done once the client has disconnected.

        Raises:
            DeadlineExceededError: The deadline passed first.
            ClientDisconnectedError: The client left first.
        """
        images = request.images
        if self._fetcher is None or isinstance(images, np.ndarray):
            return
        if any(isinstance(image, ImageUrlError) for image in images):
            headers = record.trace.headers if record.trace else {}
            fetching = asyncio.ensure_future(self._fetcher.fetch_urls(images, reserve, headers))
            deadline = _deadline(loaded, request, record)
            request.images = await finish(fetching, deadline, disconnected)

    async def predict(
        self,
        loaded: LoadedVersion,
        request: PredictRequest,
        record: RequestRecord,
        disconnected: asyncio.Future[Any],
    ) -> list[ImageOutcome]:
        """Classify the images of one request.

        Args:
            loaded: The version, leased by the caller.
            request: What to classify and how.
            record: Receives the counts and the times of the stages.
            disconnected: Done once the client has disconnected; its images are then dropped.

        Returns:
            One outcome per image, in order; at least one of them is a result.

        Raises:
            ServiceError: The request as a whole cannot be answered.
            ImageError: The only image of the request cannot be classified.
        """
        record.images = len(request.images)
        deadline = _deadline(loaded, request, record)
        with self._admission(loaded).admit(
            len(request.images),
            deadline - time.monotonic(),
            request.priority,
            self._decode_wait_seconds(request.images),
        ):
            trace = record.trace if record.trace and record.trace.is_sampled else None
            outcomes = await self._classify(request, loaded, deadline, disconnected, trace)
        _record_outcomes(outcomes, record)
        return outcomes

    def _admission(self, loaded: LoadedVersion) -> Admission:
        """Create the admission of a version. All versions of a model share one capacity."""
        capacity = self._capacities.get(loaded.version.model)
        if capacity is None:
            capacity = ModelCapacity(loaded.options.max_queue_size)
            self._capacities[loaded.version.model] = capacity
        return Admission(capacity, loaded.admitted, loaded.wait_estimate.seconds)

    def _decode_wait_seconds(self, images: Sequence[EncodedImage] | Pixels) -> float:
        if isinstance(images, np.ndarray):
            return 0.0
        seconds = self._decode_pool.wait_seconds()
        if seconds and all(isinstance(image, ServiceError) or is_small(image) for image in images):
            return 0.0  # small images are decoded in the event loop
        return seconds

    async def _classify(
        self,
        request: PredictRequest,
        loaded: LoadedVersion,
        deadline: float,
        disconnected: asyncio.Future[Any],
        trace: BatchTrace | None,
    ) -> list[ImageOutcome]:
        started = time.monotonic()
        if started > deadline:
            raise DeadlineExceededError("the deadline passed before the image was decoded")
        if isinstance(request.images, np.ndarray):
            group = loaded.batcher.submit_all(
                request.images, deadline, request.priority, extras=request.extras, trace=trace
            )
            results = await finish(group, deadline, disconnected)
            return [ImageOutcome(result, 0.0) for result in results]
        (first, *others) = request.images
        decoded = None
        if not others and not isinstance(first, ServiceError):
            decoded = self._decode_pool.decode_small(first, loaded.preprocessing)
        if decoded is None:
            all_images = asyncio.ensure_future(
                self._classify_all(request.images, request, loaded, deadline, trace)
            )
            return await finish(all_images, deadline, disconnected)
        decode_seconds = time.monotonic() - started
        one_image = loaded.batcher.submit(
            decoded.pixels, deadline, request.priority, extras=request.extras, trace=trace
        )
        result = await finish(one_image, deadline, disconnected)
        return [ImageOutcome(result, decode_seconds, decoded.size)]

    async def _classify_all(
        self,
        images: Sequence[EncodedImage],
        request: PredictRequest,
        loaded: LoadedVersion,
        deadline: float,
        trace: BatchTrace | None,
    ) -> list[ImageOutcome]:
        decodes = asyncio.Semaphore(self._decodes_per_request)
        async with asyncio.TaskGroup() as group:  # no task outlives the request and its lease
            tasks = [
                group.create_task(
                    self._classify_one(image, request, loaded, deadline, decodes, trace)
                )
                for image in images
            ]
        return [task.result() for task in tasks]

    async def _classify_one(
        self,
        image: EncodedImage,
        request: PredictRequest,
        loaded: LoadedVersion,
        deadline: float,
        decodes: asyncio.Semaphore,
        trace: BatchTrace | None,
    ) -> ImageOutcome:
        if isinstance(image, ServiceError):
            return ImageOutcome(image, 0.0)
        started = time.monotonic()
        try:
            async with decodes:  # so that one request never occupies every decode worker
                decoded = self._decode_pool.decode_small(image, loaded.preprocessing)
                if decoded is None:
                    decoded = await self._decode_pool.decode(
                        image, loaded.preprocessing, deadline, request.priority
                    )
                else:
                    await asyncio.sleep(0)  # let other requests run between two images
        except (ImageError, ServiceError) as error:
            return ImageOutcome(error, time.monotonic() - started)
        decode_seconds = time.monotonic() - started
        try:
            result = await loaded.batcher.submit(
                decoded.pixels, deadline, request.priority, extras=request.extras, trace=trace
            )
        except ServiceError as error:
            return ImageOutcome(error, decode_seconds)
        return ImageOutcome(result, decode_seconds, decoded.size)


def _deadline(loaded: LoadedVersion, request: PredictRequest, record: RequestRecord) -> float:
    return record.started + min(request.timeout_seconds, loaded.options.deadline_seconds)


def _record_outcomes(outcomes: Sequence[ImageOutcome], record: RequestRecord) -> None:
    """Fill in the record. Raises the error of the request if every image failed."""
    results: list[ImageResult] = []
    errors: list[ServiceError | ImageError] = []
    for outcome in outcomes:
        if isinstance(result := outcome.result, ImageResult):
            results.append(result)
        else:
            errors.append(result)
    record.seconds["decode"] = max([outcome.decode_seconds for outcome in outcomes])
    if record.trace:
        record.trace.add_stages(outcomes, record)
    if len(errors) == len(outcomes):
        raise errors[0] if len(errors) == 1 else EveryImageFailedError(errors)
    record.seconds["queue"] = max([result.queue_seconds for result in results])
    record.seconds["inference"] = max([result.inference_seconds for result in results])
    record.failed_images = len(errors)
