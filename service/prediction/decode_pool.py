"""Decoding beside the event loop: bounded pools, where images that cost much never hold the places of the others."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Final, TypeVar

from PIL import Image

from model_store.image_header import count_scans, open_image, resized_size
from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, plain_png, to_pixels
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.errors import DeadlineExceededError
from service.prediction.admission import overloaded

INLINE_BYTES: Final = 16 * 1024
INLINE_PIXELS: Final = 128 * 128
"""Images up to this size decode in well under a millisecond, so a hop to another thread would cost more than it saves."""
LARGE_PIXELS: Final = 2 * 1024 * 1024
USUAL_SCANS: Final = 20
BULK_COST: Final = 1e15
"""More than any image costs: bulk comes after all interactive ones."""
WEIGHT: Final = 0.1
_COSTLY: Final = (b"zTXt", b"iTXt", b"iCCP")  # chunks of a PNG that its header inflates
Result = TypeVar("Result")


class PrioritySemaphore:
    """So many at once; of those who wait the cheapest is next, so that one client's huge images hold up no smaller ones."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    @asynccontextmanager
    async def turn(self, cost: float) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        if self._free:
            self._free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (cost, next(self._numbers), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # the place was given, and was not taken
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def ahead_of(self, cost: float) -> int:
        """How many of those who wait are taken before a newcomer of this cost."""
        return sum(other <= cost and not turn.done() for other, _, turn in self._waiting)

    def _pass_on(self) -> None:
        while self._waiting:
            *_, turn = heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class _Pool:
    """So many threads, and how long an image waits for one of them."""

    def __init__(self, workers: int, name: str) -> None:
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._turns = PrioritySemaphore(workers)
        self._running = 0
        self._seconds = 0.0  # of one image, a moving average

    async def run(self, work: Callable[[], Result], deadline: float, cost: float = 0.0) -> Result:
        """What the work gives; of what waits the cheapest is next.

        Raises what it raises, OverloadedError where its turn is expected too late, DeadlineExceededError where it came too late.
        """
        if (wait := self.wait_seconds(cost)) > (
            left := deadline - time.monotonic()
        ) and self._running:
            raise overloaded(
                f"the image would wait {wait * 1e3:,.0f} ms to be decoded, and {max(left, 0) * 1e3:,.0f} ms are left",
                wait - left,
            )
        async with self._turns.turn(cost):
            self._running += 1
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._begin, work, deadline
                )
            finally:
                self._running -= 1

    def wait_seconds(self, cost: float = 0.0) -> float:
        """How long an image of this cost is likely to wait."""
        return (self._running + self._turns.ahead_of(cost)) * self._seconds / self._workers

    def close(self) -> None:
        self._threads.shutdown()

    def _begin(self, work: Callable[[], Result], deadline: float) -> Result:
        began = time.monotonic()
        if began > deadline:
            raise DeadlineExceededError("the deadline passed while the image waited to be decoded")
        try:
            return work()
        finally:
            self._seconds += WEIGHT * (
                time.monotonic() - began - self._seconds
            )  # a lost update among threads does no harm


class DecodePool:
    """Encoded images to pixels: small ones at once, others in a pool, and those that cost much in a pool of their own."""

    def __init__(self, workers: int, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._pool = _Pool(workers, "decode")
        self._large = _Pool(max(1, workers // 2), "decode large")

    def close(self) -> None:
        """End the threads; blocks until they have."""
        self._pool.close()
        self._large.close()

    def decode_small(self, image: bytes, spec: Preprocessing) -> Pixels | None:
        """The pixels of an image that is not worth a hop; else None. Raises an ImageError."""
        small = len(image) <= INLINE_BYTES and spec.crop_width * spec.crop_height <= INLINE_PIXELS
        pixels = plain_png(image, spec, self._max_pixels) if small else None
        if pixels is not None or not is_small(image):
            return pixels
        opened = open_image(image, spec, self._max_pixels)
        return to_pixels(opened, spec) if _pixels(opened, spec) <= INLINE_PIXELS else None

    async def decode(
        self, image: bytes, spec: Preprocessing, deadline: float, priority: Priority = INTERACTIVE
    ) -> Pixels:
        """The pixels, from a worker. Raises an ImageError, OverloadedError, DeadlineExceededError.

        Bulk is decoded once no interactive image waits.
        """
        later = BULK_COST if priority == BULK else 0.0

        def begin() -> tuple[Image.Image, float, Pixels | None]:
            opened = open_image(image, spec, self._max_pixels)
            scans = count_scans(image) if opened.format == "JPEG" else 1
            cost = _pixels(opened, spec) * max(1.0, scans / USUAL_SCANS)
            return opened, cost, None if cost > LARGE_PIXELS else to_pixels(opened, spec)

        opened, cost, pixels = await self._pool.run(begin, deadline, later)
        if pixels is None:
            pixels = await self._large.run(lambda: to_pixels(opened, spec), deadline, later + cost)
        return pixels

    def wait_seconds(self) -> float:
        """How long an image that is not small is likely to wait for a worker."""
        return self._pool.wait_seconds()


def is_small(image: bytes) -> bool:
    """Whether an image may be decoded in the event loop: a header, too, can be made to cost seconds."""
    return (
        len(image) <= INLINE_BYTES
        and not any(chunk in image for chunk in _COSTLY)
        and (not image.startswith(b"\xff\xd8") or count_scans(image) <= USUAL_SCANS)
    )


def _pixels(opened: Image.Image, spec: Preprocessing) -> int:
    """As many as there are at any step."""
    width, height = resized_size(opened.width, opened.height, spec)
    return max(opened.width * opened.height, width * height)
