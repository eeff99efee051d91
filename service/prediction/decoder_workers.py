"""A bounded number of decoder processes, and the memory that they share."""

import asyncio
import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from model_store.errors import ImageError, TooManyPixelsError
from model_store.manifest import Preprocessing
from model_store.preprocessing import DecodedImage
from service.errors import DeadlineExceededError, OverloadedError
from service.prediction.admission import overloaded
from service.prediction.decoder import (
    Decoder,
    DecoderLimits,
    DecoderStartError,
    TooCostlyError,
    death_error,
)
from service.prediction.priority_semaphore import PrioritySemaphore

ABANDONED_SECONDS: Final = 0.5
"""How long a decode may continue after its request has ended, before its process is killed."""
AVERAGE_WEIGHT: Final = 0.1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodeJob:
    """One image to decode.

    Attributes:
        image: The encoded image.
        spec: How to resize and crop it.
        deadline: On the monotonic clock; it does not start later.
        memory_bytes: What its process may use.
        cost: Cheaper images come first.
        max_cost: It is not decoded if it costs more (`TooCostlyError`).
    """

    image: bytes
    spec: Preprocessing
    deadline: float
    memory_bytes: int
    cost: float = 0.0
    max_cost: float = math.inf


class DecoderWorkers:
    """A bounded number of decoder processes that decode the cheapest image first.

    Processes start when they are first needed.
    """

    def __init__(self, workers: int, limits: DecoderLimits, memory: PrioritySemaphore) -> None:
        self._workers = workers
        self._limits = limits
        self._memory = memory
        self._idle: list[Decoder] = []
        self._decoders: set[Decoder] = set()
        self._tasks: set[asyncio.Task[DecodedImage]] = set()
        self._semaphore = PrioritySemaphore(workers)
        self._running = 0
        self._mean_seconds = 0.0  # per image, a moving average

    async def decode(self, job: DecodeJob) -> DecodedImage:
        """Decode an image in a process.

        Raises:
            ImageError: The image cannot be decoded, or there is never so much memory.
            TooCostlyError: It costs more than its `max_cost`.
            OverloadedError: It is predicted to start after the deadline.
            DeadlineExceededError: The deadline passed before it started.
        """
        if job.memory_bytes > self._memory.units:
            raise TooManyPixelsError(
                f"decoding the image may take {job.memory_bytes:,} bytes of memory; the limit is "
                f"{self._memory.units:,}"
            )
        wait, remaining = self.wait_seconds(job.cost), job.deadline - time.monotonic()
        if wait > remaining and self._running:
            raise overloaded(
                f"the image is predicted to wait {wait * 1e3:,.0f} ms for a decoder, "
                f"and {max(remaining, 0) * 1e3:,.0f} ms remain until the deadline",
                wait - remaining,
                reason="decoders",
            )
        await self._semaphore.acquire(job.cost)
        # The task keeps its place until its process is free, even if the caller is cancelled.
        task = asyncio.create_task(self._decode_in_place(job))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(ABANDONED_SECONDS, task.cancel)
            raise
        finally:
            del task  # its error refers to this frame: a reference cycle

    @property
    def processes(self) -> int:
        return len(self._decoders)

    @property
    def busy(self) -> int:
        """Images that have a place in the pool."""
        return self._running

    @property
    def waiting(self) -> int:
        """Images that wait for a place in the pool."""
        return self._semaphore.ahead_of(math.inf)

    def wait_seconds(self, cost: float = 0.0) -> float:
        if not self._running:  # then nothing waits
            return 0.0
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

    async def _decode_in_place(self, job: DecodeJob) -> DecodedImage:
        self._running += 1
        try:
            await self._memory.acquire(job.cost, job.memory_bytes)
            try:
                return await self._decode_in_memory(job)
            finally:
                self._memory.release(job.memory_bytes)
        finally:
            self._running -= 1
            self._semaphore.release()

    async def _decode_in_memory(self, job: DecodeJob) -> DecodedImage:
        decoder = await self._free_decoder()
        started = time.monotonic()
        if started > job.deadline:
            self._idle.append(decoder)
            raise DeadlineExceededError("the deadline passed while the image waited to be decoded")
        try:
            return await self._decode_with(decoder, job)
        finally:
            seconds = time.monotonic() - started
            self._mean_seconds += AVERAGE_WEIGHT * (seconds - self._mean_seconds)

    async def _decode_with(self, decoder: Decoder, job: DecodeJob) -> DecodedImage:
        try:
            result = await decoder.decode(job.image, job.spec, job.max_cost, job.memory_bytes)
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
            raise overloaded(
                "no process that decodes images can be started", reason="decoders"
            ) from None
        self._decoders.add(decoder)
        return decoder

    async def _end(self, decoder: Decoder) -> int:
        try:
            return await decoder.end()
        finally:
            self._decoders.discard(decoder)

    def _forget(self, task: "asyncio.Task[DecodedImage]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the caller may be gone
