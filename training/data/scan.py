"""A scan: every image decoded once, for what there is to know about it and for the pixels that a network of one size sees."""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import PIL
from PIL import Image, TiffImagePlugin, features

from model_store import preprocessing
from model_store.errors import ImageError
from model_store.manifest import Preprocessing
from model_store.preprocessing import (
    Pixels,
    load_pixels,
    open_image,
    orient,
    prepare,
    reduction,
    to_pixels,
    to_rgb,
)
from training.data.image_set import ImageSet
from training.data.scan_cache import ScanCache

LIMIT_BYTES: Final = 4 * 1024**3
CHUNK: Final = 256
_ORIENTATION_TAG: Final = 0x0112
_BITS_TAG: Final = 0x0102
_ANY_SIZE: Final = Preprocessing(resize=1, crop_height=1, crop_width=1)
_WHITE: Final = (255, 255, 255)
_BLACK: Final = (0, 0, 0)


class ImageFacts(NamedTuple):
    """What one image is: its digest (hex sha256 of the upright RGB pixels and their size), or the error that it has instead.

    `width` and `height` are upright; `orientation` is EXIF's, 1 to 8; `bits` are those of a channel as stored.
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
"""One of each image, in the order of the set."""


@dataclass(frozen=True)
class Scan:
    """Facts of each image, the digest of all of them, and their pixels (uint8 `[n, height, width, 3]`) where these were kept.

    The pixels of an image that can not be read are zeros.
    """

    facts: Facts
    digest: str
    pixels: Pixels | None


def scan(
    data: ImageSet,
    spec: Preprocessing | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda *_: None,
    limit_bytes: int = LIMIT_BYTES,
) -> Scan:
    """Decode every image once with `workers` threads; what comes out is the same for any number of them.

    With a `spec`, pixels are exactly `prepare`'s, and are kept where they need at most `limit_bytes`. The result is cached,
    unless the set has no identity. `progress` hears (images done, images in all).
    """
    shape = None
    if (
        spec is not None
        and (size := len(data) * spec.crop_height * spec.crop_width * 3)
        and size <= limit_bytes
    ):
        shape = (len(data), spec.crop_height, spec.crop_width, 3)
    cache, key = ScanCache(), _key(data, spec)
    if data.identity and (cached := cache.read(key, shape)):
        rows, pixels = cached
        facts = [ImageFacts(*row) for row in rows]
    else:
        pixels = None if shape is None else np.zeros(shape, np.uint8)
        facts = _look_at_all(data, spec, pixels, workers, progress)
        if data.identity:
            cache.write(key, facts, pixels)
    return Scan(facts, digest_of(data, facts), pixels)


def _key(data: ImageSet, spec: Preprocessing | None) -> str:
    """Everything that the result depends on: the files, the size, Pillow, and the code that decodes and looks."""
    code = [Path(file).read_bytes() for file in (__file__, preprocessing.__file__)]
    words = (
        data.identity,
        "" if spec is None else spec.model_dump_json(),
        PIL.__version__,
        str(features.version("jpg")),
    )
    return hashlib.sha256(b"\0".join([*(word.encode() for word in words), *code])).hexdigest()


def digest_of(data: ImageSet, facts: Facts) -> str:
    """Hex sha256 over a line for each image in order: the digest of its pixels (nothing where unreadable), a space, its label."""
    digest = hashlib.sha256()
    for fact, label in zip(facts, data.labels.tolist(), strict=True):
        digest.update(f"{fact.digest} {data.class_names[label]}\n".encode())
    return digest.hexdigest()


def _look_at_all(
    data: ImageSet,
    spec: Preprocessing | None,
    pixels: Pixels | None,
    workers: int,
    progress: Callable[[int, int], None],
) -> list[ImageFacts]:
    def look(index: int) -> ImageFacts:
        try:
            encoded = data.encoded[index]
        except OSError as error:
            return ImageFacts(error=f"can not be read: {error.strerror or error}")
        try:
            return _look_at(encoded, spec or _ANY_SIZE, None if pixels is None else pixels[index])
        except ImageError as error:
            return ImageFacts(error=str(error))
        except Exception as error:  # noqa: BLE001  a strange file is a finding: it must not end the look at the others
            return ImageFacts(error=f"can not be converted: {type(error).__name__}")

    facts: list[ImageFacts] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.filterwarnings(
            "ignore", module="PIL"
        )  # of what it minds, the facts have what matters
        for start in range(
            0, len(data), CHUNK
        ):  # a chunk at a time: a future for each of a million images would be much
            facts += pool.map(look, range(start, min(start + CHUNK, len(data))))
            progress(len(facts), len(data))
    return facts


def _look_at(encoded: bytes, spec: Preprocessing, row: Pixels | None) -> ImageFacts:
    """What this image is; its pixels go into `row`."""
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
    """Transparency counts: over white alone, a white drawing would equal an empty one."""
    pixels = to_rgb(image, _WHITE).tobytes()
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    digest.update(pixels)
    if image.has_transparency_data and (over_black := to_rgb(image, _BLACK).tobytes()) != pixels:
        digest.update(over_black)
    return digest.hexdigest()


def _bits(image: Image.Image, encoded: bytes) -> int:
    if image.format == "PNG":
        return encoded[
            24
        ]  # IHDR's second field from the end; Pillow's mode does not tell for colours
    return (
        max(image.tag_v2.get(_BITS_TAG, (8,)))
        if isinstance(image, TiffImagePlugin.TiffImageFile)
        else 8
    )


def _orientation(image: Image.Image) -> int:
    """As `orient` reads it: what is unreadable, or no orientation, counts as upright."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001  damaged EXIF raises whatever it likes; the pixels are good
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _frames(image: Image.Image) -> int:
    """Moves the image to another frame, so it comes last. Damage behind the first frame does not matter here."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001  as above
        return 1
