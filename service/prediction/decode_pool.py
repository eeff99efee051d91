"""Decode images: small, simple ones in the event loop, others in processes with limits."""

import asyncio
import math
from typing import Final

from model_store.errors import ImageUnsupportedError
from model_store.image_header import open_image, sniff
from model_store.jpeg_markers import count_scans
from model_store.manifest import Preprocessing
from model_store.preprocessing import DecodedImage, decode, plain_png
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.prediction.decoder import (
    DecoderLimits,
    TooCostlyError,
    decode_memory,
)
from service.prediction.decoder_process import MAX_USUAL_SCANS, decode_cost, decoded_pixels
from service.prediction.decoder_workers import DecodeJob, DecoderWorkers
from service.prediction.priority_semaphore import PrioritySemaphore

INLINE_BYTES: Final = 16 * 1024
INLINE_PIXELS: Final = 128 * 128
"""PNGs and JPEGs up to this size are decoded faster than they could be sent to a process."""
LARGE_PIXELS: Final = 2 * 1024 * 1024
START_DELAY_SECONDS: Final = 1.0
BULK_COST: Final = 1e15
"""More than the cost of any image, so that bulk images wait for all interactive ones."""
_INFLATED_CHUNKS: Final = (b"zTXt", b"iTXt", b"iCCP")  # inflated when a PNG is opened


class DecodePool:
    """Decodes the images of all requests.

    Images above `LARGE_PIXELS` use separate processes, so that they never occupy all of them.
    """

    def __init__(
        self,
        workers: int,
        limits: DecoderLimits,
        memory_bytes: float = math.inf,
        formats: frozenset[str] | None = None,
    ) -> None:
        """Create a pool without processes; they start when they are first needed.

        Args:
            workers: Processes for images of up to `LARGE_PIXELS`, and half as many for others.
            limits: Limits of one image.
            memory_bytes: Memory that all images may use together while they are decoded.
            formats: The formats of `model_store.image_header` that are accepted; None for all.
        """
        self._formats = formats
        self._max_pixels = limits.max_pixels
        memory = PrioritySemaphore(memory_bytes)
        self._workers = DecoderWorkers(workers, limits, memory)
        self._large_workers = DecoderWorkers(max(1, workers // 2), limits, memory)
        self._starting: asyncio.Task[None] | None = None

    def start_soon(self) -> None:
        """Start one process in the background, `START_DELAY_SECONDS` from now."""
        self._starting = asyncio.create_task(self._start_later())

    async def close(self) -> None:
        if self._starting:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await asyncio.gather(self._workers.close(), self._large_workers.close())

    def decode_small(self, image: bytes, spec: Preprocessing) -> DecodedImage | None:
        """Decode an image in the event loop if it is small and simple, otherwise return None.

        Raises:
            ImageError: The image cannot be decoded, or its format is not accepted.
        """
        if self._formats is not None:
            _check_format(image, self._formats)
        if len(image) <= INLINE_BYTES and spec.crop_width * spec.crop_height <= INLINE_PIXELS:
            pixels = plain_png(image, spec, self._max_pixels)
            if pixels is not None:
                return DecodedImage(pixels, (spec.crop_width, spec.crop_height))
        if not is_small(image):
            return None
        opened = open_image(image, spec, self._max_pixels)
        return (
            decode(opened, spec)
            if decode_cost(decoded_pixels(opened.size, spec), image) <= INLINE_PIXELS
            else None
        )

    async def decode(
        self, image: bytes, spec: Preprocessing, deadline: float, priority: Priority = INTERACTIVE
    ) -> DecodedImage:
        """Decode an image in a process. Bulk images wait until no interactive image waits.

        Raises:
            ImageError: The image cannot be decoded, or not within the limits of a process.
            OverloadedError: It is predicted to wait for a process until after the deadline.
            DeadlineExceededError: The deadline passed before a process was free.
        """
        priority_cost = BULK_COST if priority == BULK else 0.0
        try:
            memory_bytes = decode_memory(min(LARGE_PIXELS, self._max_pixels), len(image))
            job = DecodeJob(image, spec, deadline, memory_bytes, priority_cost, LARGE_PIXELS)
            return await self._workers.decode(job)
        except TooCostlyError as error:
            cost, memory_bytes = error.cost, decode_memory(error.pixels, len(image))
        job = DecodeJob(image, spec, deadline, memory_bytes, priority_cost + cost)
        return await self._large_workers.decode(job)

    @property
    def processes(self) -> int:
        return self._workers.processes + self._large_workers.processes

    @property
    def busy(self) -> int:
        """Images that are decoded in a process now."""
        return self._workers.busy + self._large_workers.busy

    @property
    def waiting(self) -> int:
        """Images that wait for a process."""
        return self._workers.waiting + self._large_workers.waiting

    def wait_seconds(self) -> float:
        """Predicted wait for a process of an image that is not small."""
        return self._workers.wait_seconds()

    async def _start_later(self) -> None:
        await asyncio.sleep(START_DELAY_SECONDS)
        await self._workers.start_one()


def _check_format(image: bytes, formats: frozenset[str]) -> None:
    kind = sniff(image)
    if kind is not None and kind not in formats:
        raise ImageUnsupportedError(
            f"{kind} images are not accepted by this service (SERVICE_FORMATS); convert the image "
            f"to one of {', '.join(sorted(formats))}"
        )


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
