"""Encoded images to pixels: small ones in the event loop, others in bounded thread pools."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Final, TypeVar

from PIL import Image, ImageFile

from model_store.image_header import open_image, resized_size
from model_store.jpeg_markers import count_scans
from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, plain_png, to_pixels
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.errors import DeadlineExceededError
from service.prediction.admission import overloaded

INLINE_BYTES: Final = 16 * 1024
INLINE_PIXELS: Final = 128 * 128
"""Images up to this size decode in less time than the hop to a thread costs."""
LARGE_PIXELS: Final = 2 * 1024 * 1024
MAX_USUAL_SCANS: Final = 20
"""A progressive JPEG with more scans costs more: each scan is decoded over the whole image."""
BULK_COST: Final = 1e15
"""More than the cost of any image, so that bulk images come after all interactive ones."""
AVERAGE_WEIGHT: Final = 0.1
_INFLATED_CHUNKS: Final = (b"zTXt", b"iTXt", b"iCCP")  # inflated when a PNG is opened
_JPEG: Final = b"\xff\xd8"
_ISO_MEDIA: Final = b"ftyp"
"""AVIF. Its decoder needs milliseconds for the smallest image."""
T = TypeVar("T")


class PrioritySemaphore:
    """A semaphore that serves the cheapest waiter first: huge images do not delay small ones."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiters: list[tuple[float, int, asyncio.Future[None]]] = []
        self._sequence = count()

    @asynccontextmanager
    async def acquire(self, cost: float) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        if self._free:
            self._free -= 1
        else:
            granted = asyncio.get_running_loop().create_future()
            heappush(self._waiters, (cost, next(self._sequence), granted))
            try:
                await granted
            except asyncio.CancelledError:
                if not granted.cancelled():  # granted and cancelled in the same turn of the loop
                    self._release()
                raise
        try:
            yield
        finally:
            self._release()

    def ahead_of(self, cost: float) -> int:
        """Number of waiters that are served before a new one of this cost."""
        return sum(other <= cost and not granted.done() for other, _, granted in self._waiters)

    def _release(self) -> None:
        while self._waiters:
            *_, granted = heappop(self._waiters)
            if not granted.done():
                granted.set_result(None)
                return
        self._free += 1


class _Workers:
    """A bounded number of threads that run the cheapest work first."""

    def __init__(self, workers: int, name: str) -> None:
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._semaphore = PrioritySemaphore(workers)
        self._running = 0
        self._mean_seconds = 0.0  # a moving average of one image

    async def run(self, work: Callable[[], T], deadline: float, cost: float = 0.0) -> T:
        """Run `work` in a thread.

        Raises:
            OverloadedError: It is predicted to start after the deadline.
            DeadlineExceededError: The deadline passed before it started.
        """
        wait, remaining = self.wait_seconds(cost), deadline - time.monotonic()
        if wait > remaining and self._running:
            raise overloaded(
                f"the image is predicted to wait {wait * 1e3:,.0f} ms for a decode worker, "
                f"and {max(remaining, 0) * 1e3:,.0f} ms remain until the deadline",
                wait - remaining,
            )
        async with self._semaphore.acquire(cost):
            self._running += 1
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._run_in_thread, work, deadline
                )
            finally:
                self._running -= 1

    def wait_seconds(self, cost: float = 0.0) -> float:
        """Predicted wait of new work of this cost."""
        ahead = self._running + self._semaphore.ahead_of(cost)
        return ahead * self._mean_seconds / self._workers

    def close(self) -> None:
        self._threads.shutdown()

    def _run_in_thread(self, work: Callable[[], T], deadline: float) -> T:
        started = time.monotonic()
        if started > deadline:
            raise DeadlineExceededError("the deadline passed while the image waited to be decoded")
        try:
            return work()
        finally:
            seconds = time.monotonic() - started
            # Threads may lose an update of each other, which an average can bear.
            self._mean_seconds += AVERAGE_WEIGHT * (seconds - self._mean_seconds)


class DecodePool:
    """Decodes the images of all requests.

    Images above `LARGE_PIXELS` have threads of their own, so that they never occupy all of them.
    """

    def __init__(self, workers: int, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._workers = _Workers(workers, "decode")
        self._large_workers = _Workers(max(1, workers // 2), "decode-large")

    def close(self) -> None:
        """End the threads; blocks until they have ended."""
        self._workers.close()
        self._large_workers.close()

    def decode_small(self, image: bytes, spec: Preprocessing) -> Pixels | None:
        """Decode an image in the calling thread if that is cheap, otherwise return None.

        Returns:
            uint8 `[crop_height, crop_width, 3]`, RGB.

        Raises:
            ImageError: The image cannot be decoded.
        """
        small = len(image) <= INLINE_BYTES and spec.crop_width * spec.crop_height <= INLINE_PIXELS
        pixels = plain_png(image, spec, self._max_pixels) if small else None
        if pixels is not None or not is_small(image):
            return pixels
        opened = open_image(image, spec, self._max_pixels)
        return to_pixels(opened, spec) if _max_step_pixels(opened, spec) <= INLINE_PIXELS else None

    async def decode(
        self, image: bytes, spec: Preprocessing, deadline: float, priority: Priority = INTERACTIVE
    ) -> Pixels:
        """Decode an image in a worker thread. Bulk waits until no interactive image does.

        Returns:
            uint8 `[crop_height, crop_width, 3]`, RGB.

        Raises:
            ImageError: The image cannot be decoded.
            OverloadedError: It is predicted to wait for a worker until after the deadline.
            DeadlineExceededError: The deadline passed before a worker was free.
        """
        priority_cost = BULK_COST if priority == BULK else 0.0

        def decode_unless_large() -> tuple[ImageFile.ImageFile, float, Pixels | None]:
            opened = open_image(image, spec, self._max_pixels)
            scans = count_scans(image) if image.startswith(_JPEG) else 1
            cost = _max_step_pixels(opened, spec) * max(1.0, scans / MAX_USUAL_SCANS)
            return opened, cost, None if cost > LARGE_PIXELS else to_pixels(opened, spec)

        opened, cost, pixels = await self._workers.run(decode_unless_large, deadline, priority_cost)
        if pixels is None:
            pixels = await self._large_workers.run(
                lambda: to_pixels(opened, spec), deadline, priority_cost + cost
            )
        return pixels

    def wait_seconds(self) -> float:
        """Predicted wait for a worker of an image that is not small."""
        return self._workers.wait_seconds()


def is_small(image: bytes) -> bool:
    """Whether the image may be opened in the event loop. Its header alone could cost seconds."""
    return (
        len(image) <= INLINE_BYTES
        and not any(chunk in image for chunk in _INFLATED_CHUNKS)
        and image[4:8] != _ISO_MEDIA
        and (not image.startswith(_JPEG) or count_scans(image) <= MAX_USUAL_SCANS)
    )


def _max_step_pixels(opened: Image.Image, spec: Preprocessing) -> int:
    """Pixels of the image or of its resized form, whichever has more."""
    width, height = resized_size(opened.width, opened.height, spec)
    return max(opened.width * opened.height, width * height)
