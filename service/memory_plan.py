"""MemoryPlan: limits that the memory of the machine or container sets on uploads and decoding."""

import logging
import math
from dataclasses import dataclass
from typing import Final, Self

from service.prediction.decoder import BASE_MEMORY_BYTES, MEMORY_PER_PIXEL
from service.settings import MEBIBYTE, Settings

DECODE_SHARE: Final = 9 / 16
"""So that a photo of 12 megapixels and 8 MB can be decoded in a container of 512 MiB."""
MIN_DECODE_BYTES: Final = 128 * MEBIBYTE
IDLE_DECODER_BYTES: Final = 20 * MEBIBYTE
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryPlan:
    """Limits of one process. Models and everything else have the rest of the memory.

    Attributes:
        decode_bytes: Memory for images that are being decoded: `DECODE_SHARE`.
        max_pixels: About the largest image that fits into it, at most `SERVICE_MAX_PIXELS`. The
            bytes of its file take memory, too, so the limit of an image is a little lower.
        decode_workers: Processes that decode. Idle ones take at most an eighth of the memory,
            unless `SERVICE_DECODE_WORKERS` is set.
        upload_bytes: An eighth of the memory, at most `SERVICE_MAX_UPLOAD_BYTES`.
    """

    decode_bytes: float
    max_pixels: int
    decode_workers: int
    upload_bytes: int

    @classmethod
    def make(cls, settings: Settings, cpus: int, memory: int | None) -> Self:
        """Plan for this many bytes of memory; None if the limit is not known."""
        workers = settings.decode_workers or cpus
        if memory is None:
            return cls(math.inf, settings.max_pixels, workers, settings.max_upload_bytes)
        decode_bytes = max(MIN_DECODE_BYTES, int(memory * DECODE_SHARE))
        largest = (decode_bytes - BASE_MEMORY_BYTES) // MEMORY_PER_PIXEL
        if settings.decode_workers is None:  # there are half as many processes for large images
            workers = max(1, min(cpus, memory // 8 // IDLE_DECODER_BYTES * 2 // 3))
        plan = cls(
            decode_bytes,
            min(settings.max_pixels, largest),
            workers,
            max(MEBIBYTE, min(settings.max_upload_bytes, memory // 8)),
        )
        if plan.max_pixels < settings.max_pixels or plan.upload_bytes < settings.max_upload_bytes:
            logger.warning(
                "limits lowered to about what the memory allows limit=%d max_pixels=%d "
                "max_upload_bytes=%d",
                memory,
                plan.max_pixels,
                plan.upload_bytes,
            )
        return plan
