"""Images that wait for their run, and the result of each."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from model_store.preprocessing import Pixels
from service.engine.extras import Extras
from service.engine.image_group import ImageGroup
from service.errors import ServiceError

Rows = Sequence[Any]
"""The result of a run: for each image its row, or the ServiceError that it failed with."""

logger = logging.getLogger(__name__)


class BatchTrace(Protocol):
    """The trace of a request, with its batches. Its methods must not raise."""

    def add_batch(self, others: Sequence[Any], began: float, ended: float, images: int) -> None: ...


@dataclass(slots=True)  # not frozen: that would double the time to create one
class ImageResult:
    """The row of one image, and the times and the size of its batch.

    `began` is when the run began, on the monotonic clock.
    """

    row: Any
    queue_seconds: float
    inference_seconds: float
    batch_size: int
    began: float = 0.0


@dataclass(slots=True)  # not frozen, as above
class QueuedImage:
    """An image in the queue, alone or at an index of a group, whose future it shares."""

    image: Pixels
    deadline: float
    future: asyncio.Future[Any]
    enqueued: float
    bulk: bool
    extras: Extras
    trace: BatchTrace | None
    group: ImageGroup | None = None
    index: int = 0

    def settle(self, result: ImageResult | ServiceError) -> None:
        if self.group:
            self.group.settle(self.index, result)
        elif isinstance(result, ServiceError):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


def join_images(batch: Sequence[QueuedImage]) -> Pixels:
    """The images of a batch. If they are all images of one request, they need no copy."""
    group = batch[0].group
    if (
        group
        and isinstance(group.images, np.ndarray)
        and group is batch[-1].group  # the images of a group follow each other in the queue
        and len(batch) == len(group.images)
    ):
        return group.images
    return _stack([queued.image for queued in batch])


def _stack(images: Sequence[Pixels]) -> Pixels:
    """Stack images `[height, width, 3]` like `np.stack`; the result is read-only.

    `np.stack` releases the GIL for every image and must then wait for the event loop to release it.
    With ResNet-20 this takes 8 % of a batch's time.
    """
    first = images[0]
    return np.frombuffer(b"".join([image.data for image in images]), first.dtype).reshape(
        len(images), *first.shape
    )


def set_results(
    batch: Sequence[QueuedImage], outcome: Rows | ServiceError, began: float, ended: float
) -> None:
    """Settle the futures of a batch with one call into the event loop."""

    def settle() -> None:
        for position, queued in enumerate(batch):
            if queued.future.done():
                continue
            row = outcome if isinstance(outcome, ServiceError) else outcome[position]
            if not isinstance(row, ServiceError):
                row = ImageResult(row, began - queued.enqueued, ended - began, len(batch), began)
            queued.settle(row)

    loop = batch[0].future.get_loop()
    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        logger.debug("batch dropped after the end of its event loop images=%d", len(batch))
