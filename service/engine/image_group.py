"""Images that are submitted together. One future for all costs a tenth of one for each image."""

import asyncio
from collections.abc import Sequence
from typing import Any

from model_store.preprocessing import Pixels


class ImageGroup:
    """Collects the result of each image. Used on the event loop only.

    Attributes:
        images: uint8 `[images, height, width, 3]`, or a sequence of single images.
        future: Ends in the list of the results, once each image has one. If it is cancelled, the
            images are not run.
    """

    __slots__ = ("_missing", "_results", "future", "images")

    def __init__(self, images: Sequence[Pixels] | Pixels) -> None:
        self.images = images
        self.future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._results: list[Any] = [None] * len(images)
        self._missing = len(images)

    def settle(self, index: int, result: object) -> None:
        """Keep the result of an image, or the error that it failed with."""
        self._results[index] = result
        self._missing -= 1
        if not self._missing:
            self.future.set_result(self._results)
