"""Decode images: small, simple ones in the event loop, others in processes with limits."""

import asyncio
import logging
import math
import time
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from typing import Final

from model_store.errors import ImageError
from model_store.image_header import open_image, sniff
from model_store.jpeg_markers import count_scans
from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, plain_png, to_pixels
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.errors import DeadlineExceededError, OverloadedError
from service.prediction.admission import overloaded
from service.prediction.decoder import (
    Decoder,
    DecoderLimits,
    DecoderStartError,
    TooCostlyError,
    death_error,
)
from service.prediction.decoder_process import MAX_USUAL_SCANS, decode_cost

INLINE_BYTES: Final = 16 * 1024
INLINE_PIXELS: Final = 128 * 128
"""PNGs and JPEGs up to this size are decoded faster than they could be sent to a process."""
LARGE_PIXELS: Final = 2 * 1024 * 1024
ABANDONED_SECONDS: Final = 0.5
"""How long a decode may continue after its request has ended, before its process is killed."""
START_DELAY_SECONDS: Final = 1.0
BULK_COST: Final = 1e15
"""More than the cost of any image, so that bulk images wait for all interactive ones."""
AVERAGE_WEIGHT: Final = 0.1
_INFLATED_CHUNKS: Final = (b"zTXt", b"iTXt", b"iCCP")  # inflated when a PNG is opened
logger = logging.getLogger(__name__)


class PrioritySemaphore:
    """A semaphore that grants the cheapest waiter first, so huge images do not delay small ones."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiters: list[tuple[float, int, asyncio.Future[None]]] = []
        self._sequence = count()

    async def acquire(self, cost: float) -> None:
        if self._free:
            self._free -= 1
        else:
            granted = asyncio.get_running_loop().create_future()
            heappush(self._waiters, (cost, next(self._sequence), granted))
            try:
                await granted
            except asyncio.CancelledError:
                if not granted.cancelled():  # granted and cancelled in one loop iteration
                    self.release()
                raise

    def ahead_of(self, cost: float) -> int:
        """Number of waiters that come before a new one of this cost."""
        return sum(other <= cost and not granted.done() for other, _, granted in self._waiters)

    def release(self) -> None:
        while self._waiters:
            *_, granted = heappop(self._waiters)
            if not granted.done():
                granted.set_result(None)
                return
        self._free += 1


class _Workers:
    """A bounded number of decoder processes that decode the cheapest image first.

    Processes start when they are first needed.
    """

    def __init__(self, workers: int, limits: DecoderLimits) -> None:
        self._workers = workers
        self._limits = limits
        self._idle: list[Decoder] = []
        self._decoders: set[Decoder] = set()
        self._tasks: set[asyncio.Task[Pixels]] = set()
        self._semaphore = PrioritySemaphore(workers)
        self._running = 0
        self._mean_seconds = 0.0  # per image, a moving average

    async def decode(
        self,
        image: bytes,
        spec: Preprocessing,
        deadline: float,
        cost: float = 0.0,
        max_cost: float = math.inf,
    ) -> Pixels:
        """Decode an image in a process.

        Raises:
            ImageError: The image cannot be decoded.
            TooCostlyError: It costs more than `max_cost`.
            OverloadedError: It is predicted to start after the deadline.
            DeadlineExceededError: The deadline passed before it started.
        """
        wait, remaining = self.wait_seconds(cost), deadline - time.monotonic()
        if wait > remaining and self._running:
            raise overloaded(
                f"the image is predicted to wait {wait * 1e3:,.0f} ms for a decoder, "
                f"and {max(remaining, 0) * 1e3:,.0f} ms remain until the deadline",
                wait - remaining,
            )
        await self._semaphore.acquire(cost)
        # The task keeps its place until its process is free, even if the caller is cancelled.
        task = asyncio.create_task(self._decode_in_place(image, spec, deadline, max_cost))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(ABANDONED_SECONDS, task.cancel)
            raise
        finally:
            del task  # its error refers to this frame: a reference cycle

    def wait_seconds(self, cost: float = 0.0) -> float:
        ahead = self._running + self._semaphore.ahead_of(cost)
        return ahead * self._mean_seconds / self._workers

    async def start_one(self) -> None:
        """Start a process if there is none, so that the first image does not wait for it."""
        if not self._decoders:
            with suppress(OverloadedError):  # logged by _start
                self._idle.append(await self._start())

    async def close(self) -> None:
        """Kill all processes; images in progress fail."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._idle.clear()
        await asyncio.gather(*(self._end(decoder) for decoder in list(self._decoders)))

    async def _decode_in_place(
        self, image: bytes, spec: Preprocessing, deadline: float, max_cost: float
    ) -> Pixels:
        self._running += 1
        try:
            decoder = await self._free_decoder()
            started = time.monotonic()
            if started > deadline:
                self._idle.append(decoder)
                raise DeadlineExceededError(
                    "the deadline passed while the image waited to be decoded"
                )
            try:
                return await self._decode_with(decoder, image, spec, max_cost)
            finally:
                seconds = time.monotonic() - started
                self._mean_seconds += AVERAGE_WEIGHT * (seconds - self._mean_seconds)
        finally:
            self._running -= 1
            self._semaphore.release()

    async def _decode_with(
        self, decoder: Decoder, image: bytes, spec: Preprocessing, max_cost: float
    ) -> Pixels:
        try:
            result = await decoder.decode(image, spec, max_cost)
        except (ImageError, TooCostlyError):
            self._idle.append(decoder)
            raise
        except EOFError:
            raise death_error(await self._end(decoder)) from None
        except BaseException:
            await asyncio.shield(self._end(decoder))
            raise
        self._idle.append(decoder)
        return result

    async def _free_decoder(self) -> Decoder:
        while self._idle:
            decoder = self._idle.pop()
            if not decoder.ended:
                return decoder
            await self._end(decoder)
        return await self._start()

    async def _start(self) -> Decoder:
        try:
            decoder = await Decoder.start(self._limits)
        except DecoderStartError as error:
            logger.warning("decoder process not started reason=%r", str(error))
            raise overloaded("no process that decodes images can be started") from None
        self._decoders.add(decoder)
        return decoder

    async def _end(self, decoder: Decoder) -> int:
        try:
            return await decoder.end()
        finally:
            self._decoders.discard(decoder)

    def _forget(self, task: "asyncio.Task[Pixels]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the caller may be gone


class DecodePool:
    """Decodes the images of all requests.

    Images above `LARGE_PIXELS` use separate processes, so that they never occupy all of them.
    """

    def __init__(self, workers: int, limits: DecoderLimits) -> None:
        self._max_pixels = limits.max_pixels
        self._workers = _Workers(workers, limits.below(LARGE_PIXELS))
        self._large_workers = _Workers(max(1, workers // 2), limits)
        self._starting: asyncio.Task[None] | None = None

    def start_soon(self) -> None:
        """Start one process in the background, `START_DELAY_SECONDS` from now."""
        self._starting = asyncio.create_task(self._start_later())

    async def close(self) -> None:
        if self._starting:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await asyncio.gather(self._workers.close(), self._large_workers.close())

    def decode_small(self, image: bytes, spec: Preprocessing) -> Pixels | None:
        """Decode an image in the event loop if it is small and simple, otherwise return None.

        Returns:
            uint8 `[crop_height, crop_width, 3]`, RGB.

        Raises:
            ImageError: The image cannot be decoded.
        """
        if not is_small(image):
            return None
        if spec.crop_width * spec.crop_height <= INLINE_PIXELS:
            pixels = plain_png(image, spec, self._max_pixels)
            if pixels is not None:
                return pixels
        opened = open_image(image, spec, self._max_pixels)
        return (
            to_pixels(opened, spec) if decode_cost(opened, image, spec) <= INLINE_PIXELS else None
        )

    async def decode(
        self, image: bytes, spec: Preprocessing, deadline: float, priority: Priority = INTERACTIVE
    ) -> Pixels:
        """Decode an image in a process. Bulk images wait until no interactive image waits.

        Returns:
            uint8 `[crop_height, crop_width, 3]`, RGB.

        Raises:
            ImageError: The image cannot be decoded, or not within the limits of a process.
            OverloadedError: It is predicted to wait for a process until after the deadline.
            DeadlineExceededError: The deadline passed before a process was free.
        """
        priority_cost = BULK_COST if priority == BULK else 0.0
        try:
            return await self._workers.decode(image, spec, deadline, priority_cost, LARGE_PIXELS)
        except TooCostlyError as error:
            cost = priority_cost + error.cost
        return await self._large_workers.decode(image, spec, deadline, cost)

    def wait_seconds(self) -> float:
        """Predicted wait for a process of an image that is not small."""
        return self._workers.wait_seconds()

    async def _start_later(self) -> None:
        await asyncio.sleep(START_DELAY_SECONDS)
        await self._workers.start_one()


def is_small(image: bytes) -> bool:
    """Whether the image may be opened in the event loop.

    True for a small PNG or JPEG with few parts. Also true for data that is no image, because it is
    rejected by its first bytes.
    """
    kind = sniff(image)
    if kind is None:
        return True
    if len(image) > INLINE_BYTES:
        return False
    if kind == "PNG":
        return not any(chunk in image for chunk in _INFLATED_CHUNKS)
    return kind == "JPEG" and count_scans(image) <= MAX_USUAL_SCANS
