"""Decoding beside the event loop: bounded pools, where images of many pixels never hold the places of the others."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from PIL import Image

from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, open_image, resized_size, to_pixels
from service.errors import DeadlineExceededError

INLINE_BYTES: Final = 16 * 1024
INLINE_PIXELS: Final = 128 * 128
"""Images up to this size decode in well under a millisecond, so a hop to another thread would cost more than it saves."""
LARGE_PIXELS: Final = 2 * 1024 * 1024
WEIGHT: Final = 0.1


class Decoders:
    """Encoded images to pixels: small ones at once, others in a pool, and those with many pixels in a pool of their own."""

    def __init__(self, workers: int, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._large = ThreadPoolExecutor(max(1, workers // 2), thread_name_prefix="decode large")
        self._workers = workers
        self._pending = 0
        self._seconds = 0.0  # of one image, a moving average

    def close(self) -> None:
        """End the threads; blocks until they have."""
        self._pool.shutdown()
        self._large.shutdown()

    def decode_small(self, image: bytes, spec: Preprocessing) -> Pixels | None:
        """The pixels of an image that is not worth a hop; else None. Raises an ImageError."""
        if len(image) > INLINE_BYTES:  # a header, too, can be made to cost seconds
            return None
        opened = open_image(image, spec, self._max_pixels)
        return to_pixels(opened, spec) if _pixels(opened, spec) <= INLINE_PIXELS else None

    async def decode(self, image: bytes, spec: Preprocessing, deadline: float) -> Pixels:
        """The pixels, from a worker. Raises an ImageError, DeadlineExceededError."""
        loop = asyncio.get_running_loop()
        self._pending += 1
        try:
            opened, pixels = await loop.run_in_executor(self._pool, self._begin, image, spec, deadline)
            if pixels is None:
                pixels = await loop.run_in_executor(self._large, self._convert, opened, spec, deadline)
            return pixels
        finally:
            self._pending -= 1

    def wait_seconds(self) -> float:
        """How long a place among the workers is likely to be waited for."""
        return self._pending * self._seconds / self._workers

    def _begin(self, image: bytes, spec: Preprocessing, deadline: float) -> tuple[Image.Image, Pixels | None]:
        opened = open_image(image, spec, self._max_pixels)
        return opened, None if _pixels(opened, spec) > LARGE_PIXELS else self._convert(opened, spec, deadline)

    def _convert(self, opened: Image.Image, spec: Preprocessing, deadline: float) -> Pixels:
        began = time.monotonic()
        if began > deadline:
            raise DeadlineExceededError("the deadline passed while the image waited to be decoded")
        pixels = to_pixels(opened, spec)
        self._seconds += WEIGHT * (time.monotonic() - began - self._seconds)  # a lost update among threads does no harm
        return pixels


def _pixels(opened: Image.Image, spec: Preprocessing) -> int:
    """As many as there are at any step."""
    width, height = resized_size(opened.width, opened.height, spec)
    return max(opened.width * opened.height, width * height)
