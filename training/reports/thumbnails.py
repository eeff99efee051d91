"""Thumbnails of images as the service sees them, as `data:` URIs."""

import base64
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from model_store.preprocessing import Pixels
from training.data.image_set import Indices
from training.data.lazy_columns import encode

LOSSLESS_SIDE: Final = 64
"""Images with sides up to this many pixels are stored losslessly in full size."""
THUMBNAIL_SIDE: Final = 112
THUMBNAIL_QUALITY: Final = 82


@dataclass(frozen=True)
class Thumbnail:
    """An image as a `data:` URI. If `small`, it has full size; enlarge it without smoothing."""

    uri: str
    small: bool


def make_thumbnails(
    read: Callable[[Indices], Iterable[Pixels]],
    indices: Collection[int],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Mapping[int, Thumbnail]:
    """Thumbnails of the images at these positions.

    Args:
        read: Yields the pixels of images in chunks, as `RunData.chunks`.
        indices: Positions of the images.
        progress: Called with (images done, images in total).

    Raises:
        DataError: An image can no longer be read.
    """
    wanted = np.array(sorted(set(indices)), np.int64)
    thumbnails: dict[int, Thumbnail] = {}
    for chunk in read(wanted):
        for pixels in chunk:
            thumbnails[int(wanted[len(thumbnails)])] = make_thumbnail(pixels)
        progress(len(thumbnails), len(wanted))
    return thumbnails


def make_thumbnail(pixels: Pixels) -> Thumbnail:
    """Thumbnail of uint8 `[height, width, 3]`: PNG up to 64 pixels a side, else a reduced JPEG."""
    small = max(pixels.shape[:2]) <= LOSSLESS_SIDE
    is_grey = bool((pixels == pixels[..., :1]).all())
    image = Image.fromarray(pixels[..., 0] if is_grey else pixels)
    if small:
        kind, encoded = "png", encode(image, "PNG", optimize=True)
    else:
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
        kind, encoded = "jpeg", encode(image, "JPEG", quality=THUMBNAIL_QUALITY)
    return Thumbnail(f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}", small)
