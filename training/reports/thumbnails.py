"""Pictures for a page: images as the service sees them, each small enough to stand inside the page as a data: URI."""

import base64
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from model_store.preprocessing import Pixels
from training.data.lazy_columns import encode
from training.run.data import PIXEL_CHUNK_SIZE, RunData

SMALL_SIDE: Final = 64
THUMBNAIL_SIDE: Final = 112
JPEG_QUALITY: Final = 82


@dataclass(frozen=True)
class Thumbnail:
    """An image as a `data:` URI. `small` ones hold every pixel and are to be enlarged without smoothing."""

    uri: str
    small: bool


def make_thumbnails(
    data: RunData, indices: Collection[int], progress: Callable[[int, int], None] = lambda *_: None
) -> Mapping[int, Thumbnail]:
    """The images at these positions, each once. `progress` hears (images done, images in all). Raises DataError."""
    wanted = np.array(sorted(set(indices)), np.int64)
    pictures: dict[int, Thumbnail] = {}
    for start, chunk in zip(
        range(0, len(wanted), PIXEL_CHUNK_SIZE), data.chunks(wanted), strict=True
    ):
        pictures |= {
            int(index): thumbnail_of(pixels)
            for index, pixels in zip(wanted[start : start + PIXEL_CHUNK_SIZE], chunk, strict=True)
        }
        progress(len(pictures), len(wanted))
    return pictures


def thumbnail_of(pixels: Pixels) -> Thumbnail:
    """One image, uint8 `[height, width, 3]`: PNG up to 64 pixels, a reduced JPEG above."""
    small = max(pixels.shape[:2]) <= SMALL_SIDE
    grey = bool((pixels == pixels[..., :1]).all())
    image = Image.fromarray(pixels[..., 0] if grey else pixels)
    if not small:
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    encoded = (
        encode(image, "PNG", optimize=True)
        if small
        else encode(image, "JPEG", quality=JPEG_QUALITY)
    )
    kind = "png" if small else "jpeg"
    return Thumbnail(f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}", small)
