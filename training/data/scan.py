"""Scan of a data set: decodes every image once, and collects facts and (optionally) pixels."""

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import PIL
from PIL import Image, TiffImagePlugin, features

from model_store import geometry, image_header, jpeg_markers, pixel_layout, preprocessing
from model_store.errors import ImageError
from model_store.image_header import open_image
from model_store.manifest import Preprocessing
from model_store.preprocessing import (
    Pixels,
    load_pixels,
    orient,
    prepare,
    reduction,
    to_pixels,
    to_rgb,
)
from training.data.image_set import ImageSet
from training.data.scan_cache import ScanCache

MAX_PIXEL_BYTES: Final = 4 * 1024**3
CHUNK: Final = 256
"""Images per progress report."""
_ORIENTATION_TAG: Final = 0x0112
_BITS_TAG: Final = 0x0102
_PNG_BIT_DEPTH_OFFSET: Final = 24  # in the IHDR chunk, which is always the first
_ANY_SIZE: Final = Preprocessing(resize=1, crop_height=1, crop_width=1)
_WHITE: Final = (255, 255, 255)
_BLACK: Final = (0, 0, 0)


class ImageFacts(NamedTuple):
    """Facts about one image.

    Attributes:
        digest: Hex SHA-256 of the size and the RGB pixels after EXIF rotation.
        width: In pixels, after EXIF rotation.
        height: In pixels, after EXIF rotation.
        mode: Pillow's mode.
        format: Pillow's format.
        bits: Bits per channel in the file.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        frames: Number of images in the file.
        error: Why the image is unreadable; all other fields have their defaults then.
    """

    digest: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    bits: int = 8
    orientation: int = 1
    frames: int = 1
    error: str = ""


Facts = Sequence[ImageFacts]
"""One entry per image, in the order of the data set."""


@dataclass(frozen=True)
class Scan:
    """Result of a scan.

    Attributes:
        facts: Facts of each image.
        digest: Digest of the data set, see `digest_of`.
        pixels: uint8 `[n, height, width, 3]` if they were kept; unreadable images are zeros.
    """

    facts: Facts
    digest: str
    pixels: Pixels | None


def scan(
    data: ImageSet,
    spec: Preprocessing | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda *_: None,
    max_pixel_bytes: int = MAX_PIXEL_BYTES,
) -> Scan:
    """Decode every image of a data set once.

    The result is cached on disk if the data set has an identity.

    Args:
        data: The images.
        spec: Preprocessing of the pixels to keep, equal to `prepare`'s; None keeps no pixels.
        workers: Number of threads. It does not change the result.
        progress: Called with (images done, images in total).
        max_pixel_bytes: Pixels that need more memory are not kept.
    """
    shape = None
    if spec is not None and data.labels.size:
        wanted = (len(data), spec.crop_height, spec.crop_width, 3)
        shape = wanted if math.prod(wanted) <= max_pixel_bytes else None
    cache, key = ScanCache(), _key(data, spec)
    if data.identity and (cached := cache.read(key, shape)):
        rows, pixels = cached
        facts = [ImageFacts(*row) for row in rows]
    else:
        pixels = None if shape is None else np.zeros(shape, np.uint8)
        facts = _examine_all(data, spec, pixels, workers, progress)
        if data.identity:
            cache.write(key, facts, pixels)
    return Scan(facts, digest_of(data, facts), pixels)


def _key(data: ImageSet, spec: Preprocessing | None) -> str:
    """Cache key: a digest of the files, the preprocessing, Pillow and the code that decodes."""
    code = [
        Path(file).read_bytes()
        for file in (
            __file__,
            geometry.__file__,
            image_header.__file__,
            jpeg_markers.__file__,
            pixel_layout.__file__,
            preprocessing.__file__,
        )
    ]
    inputs = (
        data.identity,
        "" if spec is None else spec.model_dump_json(),
        PIL.__version__,
        str(features.version("jpg")),
    )
    return hashlib.sha256(b"\0".join([*(text.encode() for text in inputs), *code])).hexdigest()


def digest_of(data: ImageSet, facts: Facts) -> str:
    """Digest of pixels, labels and their order, as manifests state it.

    Returns:
        Hex SHA-256 of one line per image: the digest of its pixels (empty if unreadable), a space
        and its label.
    """
    digest = hashlib.sha256()
    for fact, label in zip(facts, data.labels.tolist(), strict=True):
        digest.update(f"{fact.digest} {data.class_names[label]}\n".encode())
    return digest.hexdigest()


def _examine_all(
    data: ImageSet,
    spec: Preprocessing | None,
    pixels: Pixels | None,
    workers: int,
    progress: Callable[[int, int], None],
) -> list[ImageFacts]:
    def examine(index: int) -> ImageFacts:
        try:
            encoded = data.encoded[index]
        except OSError as error:
            return ImageFacts(error=f"cannot be read: {error.strerror or error}")
        try:
            return _examine(encoded, spec or _ANY_SIZE, None if pixels is None else pixels[index])
        except ImageError as error:
            return ImageFacts(error=str(error))
        except Exception as error:  # noqa: BLE001  one damaged file must not end the scan
            return ImageFacts(error=f"cannot be converted: {type(error).__name__}")

    facts: list[ImageFacts] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # the facts report what matters
        for start in range(0, len(data), CHUNK):  # bounds the number of futures
            facts += pool.map(examine, range(start, min(start + CHUNK, len(data))))
            progress(len(facts), len(data))
    return facts


def _examine(encoded: bytes, spec: Preprocessing, row: Pixels | None) -> ImageFacts:
    """Return the facts of one image, and write its pixels to `row` unless it is None."""
    image = open_image(encoded, spec)
    load_pixels(image)
    upright = orient(image)
    digest = _digest_of_pixels(upright)
    if row is not None:
        row[:] = prepare(encoded, spec) if reduction(image, spec) > 1 else to_pixels(image, spec)
    return ImageFacts(
        digest=digest,
        width=upright.width,
        height=upright.height,
        mode=image.mode,
        format=image.format or "",
        bits=_bits(image, encoded),
        orientation=_orientation(image),
        frames=_frames(image),
    )


def _digest_of_pixels(image: Image.Image) -> str:
    """SHA-256 of size and pixels over white and, if they differ, over black.

    Over white alone, a white drawing on transparency would equal an empty image.
    """
    pixels = to_rgb(image, _WHITE).tobytes()
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    digest.update(pixels)
    if image.has_transparency_data and (over_black := to_rgb(image, _BLACK).tobytes()) != pixels:
        digest.update(over_black)
    return digest.hexdigest()


def _bits(image: Image.Image, encoded: bytes) -> int:
    if image.format == "PNG":
        return encoded[_PNG_BIT_DEPTH_OFFSET]  # Pillow's mode is RGB for 16 bits too
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(_BITS_TAG, (8,))))
    return 8


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) if it is missing, damaged or out of range."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001  damaged EXIF raises exceptions of any kind
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _frames(image: Image.Image) -> int:
    """Return the number of frames; 1 if later frames are damaged. Changes the current frame."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001  as for EXIF
        return 1
