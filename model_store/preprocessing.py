"""From encoded bytes to pixels: the one implementation for training, gates and service.

The order is fixed: signature, header (format, size), pixels, EXIF orientation, RGB, resize, crop.
Everything after it (scaling, mean and standard deviation, layout) is part of the ONNX graph. Resize
and crop give the same pixels as torchvision's `Resize(antialias=True)` and `CenterCrop`, or as
timm's transforms for letterboxes and targets that are not square. `geometry` computes the sizes.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from model_store.errors import (
    ImageCorruptError,
    ImageTooExpensiveError,
    ImageTruncatedError,
    ImageUnsupportedError,
)
from model_store.geometry import resize_target, resized_size
from model_store.image_header import (
    DECODE_ERRORS,
    DEFAULT_MAX_PIXELS,
    decode_error_reason,
    open_image,
)
from model_store.jpeg_markers import END, lacks_only_end
from model_store.pixel_layout import explain_unreadable

if TYPE_CHECKING:
    from model_store.manifest import Preprocessing

Pixels = NDArray[np.uint8]
"""Images as uint8 `[height, width, 3]` or `[batch, height, width, 3]`, RGB, 0 to 255."""


class DecodedImage(NamedTuple):
    """The model's input of one image, and the image's own size.

    Attributes:
        pixels: uint8 `[crop_height, crop_width, 3]`, RGB.
        size: Width and height of the upright image.
    """

    pixels: Pixels
    size: tuple[int, int]


MIN_SOURCE_PIXELS: Final = 5.5
"""A reduced decode leaves at least this many source pixels per output pixel along each side."""

_RESAMPLING: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORIENTATION_TAG: Final = 0x0112
_TRANSPOSITIONS: Final = {  # EXIF 2.32, tag 274: orientation, and what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS: Final = frozenset(_TRANSPOSITIONS[orientation] for orientation in (5, 6, 7, 8))
_JPEG_FORMATS: Final = frozenset({"JPEG", "MPO"})
_PROBES: Final = tuple(
    b"".join(b"\xee\xd3" * 16 + bytes([0xFF, 0xD0 + (first + i) % 8]) for i in range(8))
    for first in (0, 4)
)
"""Scan data with restart markers. If a JPEG's scan is cut off, appending one changes the pixels.

The decoder skips the data behind a marker that is one or two ahead of the expected one.
"""
_DIRECT_MODES: Final = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"})
_ALPHA_MODES: Final = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_END: Final = b"\0\0\0\0IEND\xaeB`\x82"


def prepare(data: bytes, spec: Preprocessing, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Turn an encoded image into the model's input.

    The first frame of an animation is used. Colour profiles are not applied, as in training.

    Args:
        data: The bytes of a file in one of `FORMATS`.
        spec: The `preprocessing` block of the manifest.
        max_pixels: Limit for the pixels of the image, before and after the resize.

    Returns:
        uint8 `[crop_height, crop_width, 3]`, RGB.

    Raises:
        ImageError: Its class and `code` say what is wrong with the bytes.
    """
    pixels = plain_png(data, spec, max_pixels)
    return to_pixels(open_image(data, spec, max_pixels), spec) if pixels is None else pixels


def plain_png(
    data: bytes, spec: Preprocessing, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pixels | None:
    """A fast path of `prepare` for RGB PNGs that already have the size of the input.

    It skips the search for metadata, which takes half of the time for a small image.

    Returns:
        The pixels as `prepare` returns them; None for any other image and for a damaged one.
    """
    width, height = spec.crop_width, spec.crop_height
    header = _plain_png_header(width, height)
    begin, end = len(header) + 8, len(data) - 4 - len(_PNG_END)  # the compressed pixels
    if begin > end or not (data.startswith(header) and data.endswith(_PNG_END)):
        return None
    if width * height > max_pixels or resized_size(width, height, spec) != (width, height):
        return None
    if struct.unpack_from(">I4s", data, len(header)) != (end - begin, b"IDAT"):
        return None
    try:
        image = Image.frombytes("RGB", (width, height), data[begin:end], "zip", "RGB")
    except DECODE_ERRORS:
        return None
    return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, 3)


@lru_cache(maxsize=64)
def _plain_png_header(width: int, height: int) -> bytes:
    """The signature and the whole first chunk of an RGB PNG: 8 bits, not interlaced."""
    chunk = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    return _PNG_SIGNATURE + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def to_pixels(image: ImageFile.ImageFile, spec: Preprocessing) -> Pixels:
    """The model's input of an image that `open_image` returned; see `decode`."""
    return decode(image, spec).pixels


def decode(image: ImageFile.ImageFile, spec: Preprocessing) -> DecodedImage:
    """Decode an image that `open_image` returned.

    A JPEG that is much larger than the input is decoded at a fraction of its size, which takes a
    third of the time.

    Raises:
        ImageError: The data is damaged or cannot be converted.
    """
    if (fraction := reduction(image, spec)) > 1:
        image.draft(None, (image.width // fraction, image.height // fraction))
    load_pixels(image)
    try:
        upright = orient(image)
        size = upright.width * fraction, upright.height * fraction
        upright = to_rgb(upright, spec.background)  # frees the image before its conversion
        pixels = crop(resize(upright, spec), spec)
    except DECODE_ERRORS as error:
        raise ImageCorruptError(
            f"the {image.format} image cannot be converted: {decode_error_reason(error)}"
        ) from None
    return DecodedImage(pixels, size)


def reduction(image: Image.Image, spec: Preprocessing) -> int:
    """The factor by which decoding a JPEG divides its width and height: 8, 4, 2 or 1.

    At least `MIN_SOURCE_PIXELS` source pixels per output pixel and side remain for the resize. The
    pixels of a photograph then differ from a full decode by at most 4 grey levels, and by 0.25 on
    average; those of halftone patterns by up to 10 and 4.4 (`test_reduced_decode.py`). The factor
    divides both sides without a remainder, or the image would shift.
    """
    # `nearest` selects single pixels, but a reduced decode averages them.
    if image.format not in _JPEG_FORMATS or spec.interpolation == "nearest":
        return 1
    largest = _source_pixels(image, spec) / MIN_SOURCE_PIXELS
    return next(
        (
            factor
            for factor in (8, 4, 2)
            if factor <= largest and image.width % factor == image.height % factor == 0
        ),
        1,
    )


def _source_pixels(image: Image.Image, spec: Preprocessing) -> float:
    """Source pixels per resized pixel along a side. The image need not be upright."""
    if spec.resize_mode == "exact":
        return min(image.size) / max(resize_target(spec))  # holds for both orientations
    width, height = image.size
    if _transposition(image) in _TURNS:
        width, height = height, width
    resized_width, resized_height = resized_size(width, height, spec)
    return min(width / resized_width, height / resized_height)


def load_pixels(image: ImageFile.ImageFile) -> None:
    """Decode an image in place.

    A JPEG that lacks only its end marker is decoded.

    Raises:
        ImageError: The data is cut, damaged or of a kind that is not supported.
    """
    # Pillow closes the file when it has decoded the image.
    file = image.fp
    try:
        image.load()
    except DECODE_ERRORS as error:
        data = file.getvalue() if isinstance(file, io.BytesIO) else b""
        if unsupported := explain_unreadable(image.format or "", data, error):
            raise unsupported from None
        message = str(error).lower()
        if "memory allocation" in message or "security limit" in message:  # messages of libheif
            raise ImageTooExpensiveError("decoding the image takes too much memory") from None
        if "truncated" in message or "end of file" in message or isinstance(error, EOFError):
            if image.format in _JPEG_FORMATS and _load_without_end(image, data):
                return
            raise ImageTruncatedError(
                f"the {image.format} data ends before the image does"
            ) from None
        raise ImageCorruptError(
            f"the {image.format} data is damaged: {decode_error_reason(error)}"
        ) from None


def _load_without_end(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Decode a JPEG without an end marker if no pixel is missing; return whether it was decoded."""
    data = data.removesuffix(b"\xff")  # half of a marker
    try:
        if not lacks_only_end(data, len(image.getbands())):
            return False
        complete = _decoded_jpeg(data + END, image.size)
        probes = [_decoded_jpeg(data + probe + END, image.size) for probe in _PROBES]
    except (*DECODE_ERRORS, ImageCorruptError):
        return False
    if complete.size != image.size:
        return False
    if any(probe.tobytes() != complete.tobytes() for probe in probes):
        return False
    image.im, image.tile = complete.im, []
    return True


def _decoded_jpeg(data: bytes, size: tuple[int, int]) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    image.draft(None, size)
    image.load()
    return image


def orient(image: Image.Image) -> Image.Image:
    """Turn an image upright by its EXIF orientation. Damaged EXIF counts as none."""
    transposition = _transposition(image)
    return image if transposition is None else image.transpose(transposition)


def _transposition(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TRANSPOSITIONS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except DECODE_ERRORS:
        return None


def to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Convert an image of any mode to RGB.

    Args:
        image: The decoded image. For 16-bit grey, the high byte is used.
        background: RGB colour behind transparent pixels.

    Raises:
        ImageUnsupportedError: The mode has no defined range, such as 32-bit floats.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):  # convert("RGB") would clip at 255 (Pillow#2574)
        levels = np.asarray(image)
        rgb = Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
        if (transparent := image.info.get("transparency")) is not None:
            rgb.paste(background, mask=Image.fromarray(levels == transparent))
        return rgb
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getbbox() is None:
        return image.convert("RGB")  # many programs write 0 as alpha, and viewers ignore it
    if image.mode in _ALPHA_MODES or (image.mode in _DIRECT_MODES and "transparency" in image.info):
        image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        canvas = Image.new("RGB", image.size, background)
        canvas.paste(image, mask=image.getchannel("A"))
        return canvas
    if image.mode in _DIRECT_MODES:
        return image.convert("RGB")
    raise ImageUnsupportedError(
        f"pixels of mode {image.mode!r} have no defined range; convert the image to 8 or 16 bits"
    )


def resize(image: Image.Image, spec: Preprocessing) -> Image.Image:
    """Resize an image with antialiasing."""
    size = resized_size(*image.size, spec)
    return image if size == image.size else image.resize(size, _RESAMPLING[spec.interpolation])


def crop(image: Image.Image, spec: Preprocessing, offset: int = 0) -> Pixels:
    """Cut out the centre of an image, after padding it to the size of the crop in a letterbox.

    Args:
        image: The resized image, RGB.
        spec: The size of the crop.
        offset: Shifts the crop to the right and down, in pixels. The gates use it.

    Returns:
        uint8 `[crop_height, crop_width, 3]`, RGB.
    """
    if spec.letterbox:
        image = _pad(image, spec.crop_width, spec.crop_height, spec.letterbox.padding)
    width, height = spec.crop_width, spec.crop_height
    if image.size == (width, height) and not offset:
        return np.asarray(image)  # without the copy
    top = round((image.height - height) / 2) + offset
    left = round((image.width - width) / 2) + offset
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _pad(
    image: Image.Image, min_width: int, min_height: int, colour: tuple[int, int, int]
) -> Image.Image:
    width, height = max(image.width, min_width), max(image.height, min_height)
    if (width, height) == image.size:
        return image
    padded = Image.new("RGB", (width, height), colour)
    padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return padded
