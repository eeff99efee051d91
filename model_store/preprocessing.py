"""Bytes to pixels: the one function that training's evaluation, the gates and the service all call.

The order of work is fixed: signature, header (format, size), pixels, EXIF orientation, RGB, resize, crop. Everything after
it (scaling, mean and deviation, layout) lies inside the ONNX graph, so preprocessing skew has no place to hide. Resize and
crop follow torchvision's `Resize(antialias=True)` and `CenterCrop` to the pixel.
"""

import io
import struct
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
    TiffImagePlugin,  # noqa: F401  Pillow loads these two only after a failed look at all its formats
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from model_store.errors import (
    ImageCorruptError,
    ImageError,
    ImageTruncatedError,
    ImageUnsupportedError,
    NotAnImageError,
    TooManyPixelsError,
)
from model_store.manifest import Preprocessing

Pixels = NDArray[np.uint8]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
DEFAULT_MAX_PIXELS: Final = 50 * 1024 * 1024
MAX_PNG_CHUNKS: Final = 256
MAX_SCANNED_PIXELS: Final = 2**31  # a second or two of decoding
LEAST_REDUCED: Final = 5.5
PILLOW_MAX_PIXELS: Final = 89_478_485
"""Above this Pillow itself refuses or warns, so no setting may go higher."""

_RESAMPLING: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORIENTATION_TAG: Final = 0x0112
_TRANSPOSITIONS: Final = {  # EXIF 2.32, tag 274: how the camera was held, and what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DIRECT_MODES: Final = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"})
_ALPHA_MODES: Final = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_PLAIN_PNG: Final = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR%b%b\x08\x02\0\0\0"  # 8 bits, RGB, not interlaced
)
_PNG_END: Final = b"\0\0\0\0IEND\xaeB`\x82"
_DECODE_FAULTS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged data, found by flipping bits in every format (tests/model_store)."""


def sniff(data: bytes) -> str | None:
    """The format that the first bytes promise (one of FORMATS), or None. Media types are not asked: clients get them wrong."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    # Two letters are not much of a signature: BMP must also name a header size that exists.
    if data.startswith(b"BM") and len(data) >= 18 and data[14:18] in _BMP_HEADER_SIZES:
        return "BMP"
    return None


_BMP_HEADER_SIZES: Final = frozenset(
    size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124)
)


def prepare(data: bytes, spec: Preprocessing, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Turn an encoded image into the model's input: uint8 `[crop_height, crop_width, 3]`, RGB.

    Raises an ImageError whose class says what is wrong with the bytes. Of an animation the first frame counts. Colour
    profiles are not applied (nor were they in training).
    """
    pixels = plain_png(data, spec, max_pixels)
    return to_pixels(open_image(data, spec, max_pixels), spec) if pixels is None else pixels


def plain_png(
    data: bytes, spec: Preprocessing, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pixels | None:
    """The pixels, as of `prepare`, of an RGB PNG that has the model's size and nothing but its pixels; of all others None.

    Pillow decodes it, but does not look for what is not there: of a small image that takes as long as its pixels. One that is
    damaged is left to `open_image` and `to_pixels` too, which say how.
    """
    width, height = spec.crop_width, spec.crop_height
    header = _PLAIN_PNG % (width.to_bytes(4, "big"), height.to_bytes(4, "big"))
    begin, end = (
        len(header) + 12,
        len(data) - 4 - len(_PNG_END),
    )  # between two checksums: Pillow does not look at the last one
    if begin > end or not (data.startswith(header) and data.endswith(_PNG_END)):
        return None
    if width * height > max_pixels or resized_size(width, height, spec) != (width, height):
        return None
    if struct.unpack_from(">II4s", data, len(header)) != (
        zlib.crc32(header[12:]),
        end - begin,
        b"IDAT",
    ):
        return None
    try:
        image = Image.frombytes("RGB", (width, height), data[begin:end], "zip", "RGB")
    except _DECODE_FAULTS:
        return None
    return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, 3)


def open_image(
    data: bytes, spec: Preprocessing, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Image.Image:
    """Read the header alone and hold it against the limits; no pixel is decoded yet. Raises an ImageError."""
    promised = sniff(data)
    if promised is None:
        raise _unknown_signature(data)
    if promised == "PNG":
        _check_png_chunks(data)
    try:
        image = Image.open(io.BytesIO(data), formats=(promised,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooManyPixelsError(
            f"the image has more than {PILLOW_MAX_PIXELS:,} pixels; at most {max_pixels:,} are allowed"
        ) from None
    except UnidentifiedImageError:
        raise ImageTruncatedError(
            f"the data begins like {promised} but holds no complete header ({len(data)} bytes)"
        ) from None
    except _DECODE_FAULTS as error:
        if _ends_early(promised, data):
            raise ImageTruncatedError(
                f"the {promised} data ends before the image does ({len(data)} bytes)"
            ) from None
        raise ImageCorruptError(f"the {promised} header is damaged: {_reason(error)}") from None
    width, height = image.size
    if promised == "JPEG" and (scans := count_scans(data)) * width * height > MAX_SCANNED_PIXELS:
        raise ImageCorruptError(
            f"the JPEG has {scans} scans of its {width}x{height} pixels, more than a progressive image needs"
        )
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"the image has {width}x{height} = {width * height:,} pixels; at most {max_pixels:,} are allowed"
        )
    resized_width, resized_height = resized_size(width, height, spec)
    if (
        resized_width * resized_height > max_pixels
    ):  # 10 x 100,000 pixels pass the first check and become gigabytes here
        raise TooManyPixelsError(
            f"the image is {width}x{height}: with its shorter side resized to {spec.resize} it would have "
            f"{resized_width * resized_height:,} pixels; at most {max_pixels:,} are allowed"
        )
    return image


def count_scans(data: bytes) -> int:
    """Of a JPEG: each costs a look at all of its pixels, and a dozen bytes. Honest ones have up to ten, or few by chance."""
    return data.count(b"\xff\xda")


def to_pixels(image: Image.Image, spec: Preprocessing) -> Pixels:
    """Decode an image that `open_image` let through: uint8 `[crop_height, crop_width, 3]`, RGB. Raises an ImageError.

    A JPEG that is much larger than what is asked for is decoded at a fraction of its size, which takes a third of the time.
    """
    if (fraction := reduction(image, spec)) > 1:
        image.draft(None, (image.width // fraction, image.height // fraction))
    load_pixels(image)
    try:
        return crop(resize(to_rgb(orient(image), spec.background), spec), spec)
    except (*_DECODE_FAULTS, MemoryError) as error:
        raise ImageCorruptError(
            f"the {image.format} image can not be converted: {_reason(error)}"
        ) from None


def reduction(image: Image.Image, spec: Preprocessing) -> int:
    """By what a JPEG's sides may be divided as its blocks are decoded (8, 4 or 2), else 1.

    As long as the antialiased resize still has LEAST_REDUCED source pixels a side for each of its own, a photograph's pixels stay
    within 4 grey levels of those of the full decode, and within 0.25 in the mean (tests/model_store); patterns of single dots or
    lines, as halftones have, by up to 10, and 4.4 in the mean. Sides that do not divide would shift it.
    """
    if (
        image.format != "JPEG" or spec.interpolation == "nearest"
    ):  # which takes single pixels, and a fraction has averaged them
        return 1
    target = (
        spec.resize
        if spec.resize_mode == "shorter_side"
        else max(spec.crop_width, spec.crop_height)
    )
    fits = min(image.size) / (LEAST_REDUCED * target)
    return next(
        (by for by in (8, 4, 2) if by <= fits and image.width % by == image.height % by == 0), 1
    )


def load_pixels(image: Image.Image) -> None:
    """Decode in place. Raises ImageTruncatedError or ImageCorruptError."""
    try:
        image.load()
    except _DECODE_FAULTS as error:
        if "truncated" in str(error).lower() or isinstance(error, EOFError):
            raise ImageTruncatedError(
                f"the {image.format} data ends before the image does"
            ) from None
        raise ImageCorruptError(f"the {image.format} data is damaged: {_reason(error)}") from None


def orient(image: Image.Image) -> Image.Image:
    """Turn the image the way that its EXIF orientation says. Unreadable EXIF counts as none: the pixels are still good."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        transposition = _TRANSPOSITIONS.get(orientation)
    except _DECODE_FAULTS:
        return image
    return image if transposition is None else image.transpose(transposition)


def to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Convert any mode to RGB: transparency over `background`, 16-bit grey by its high byte. Raises ImageUnsupportedError."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(
        "I;16"
    ):  # convert("RGB") would clip at 255 and give a white image (Pillow#2574)
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
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


def resized_size(width: int, height: int, spec: Preprocessing) -> tuple[int, int]:
    """The size (width, height) after the resize and before the crop; the longer side rounds down, as torchvision's does."""
    if spec.resize_mode == "exact":
        return spec.crop_width, spec.crop_height
    if width <= height:
        return spec.resize, int(spec.resize * height / width)
    return int(spec.resize * width / height), spec.resize


def resize(image: Image.Image, spec: Preprocessing) -> Image.Image:
    """Resize with antialias. An image that already has the size is returned as it is."""
    size = resized_size(*image.size, spec)
    return image if size == image.size else image.resize(size, _RESAMPLING[spec.interpolation])


def crop(image: Image.Image, spec: Preprocessing, offset: int = 0) -> Pixels:
    """Cut out the centre as uint8 `[crop_height, crop_width, 3]`; `offset` shifts it right and down (the gates try that)."""
    top = round((image.height - spec.crop_height) / 2) + offset
    left = round((image.width - spec.crop_width) / 2) + offset
    whole = (left, top, *image.size) == (0, 0, spec.crop_width, spec.crop_height)
    return np.asarray(
        image if whole else image.crop((left, top, left + spec.crop_width, top + spec.crop_height))
    )


def _ends_early(promised: str, data: bytes) -> bool:
    """Whether a format that says how long it is, or how it ends, has been cut; only asked when it could not be opened."""
    if promised == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return promised == "PNG" and b"IEND" not in data


def _check_png_chunks(data: bytes) -> None:
    """Refuse a PNG with more chunks before its pixels than any has: each may inflate to a megabyte when the header is read."""
    position, chunks = 8, 0
    while position + 8 <= len(data) and data[position + 4 : position + 8] != b"IDAT":
        chunks += 1
        if chunks > MAX_PNG_CHUNKS:
            raise ImageCorruptError(
                f"the PNG has more than {MAX_PNG_CHUNKS} chunks before its pixels"
            )
        position += 12 + int.from_bytes(data[position : position + 4], "big")


def _unknown_signature(data: bytes) -> ImageError:
    known = ", ".join(FORMATS)
    if data[4:8] == b"ftyp" and data[8:12] in {
        b"heic",
        b"heix",
        b"mif1",
        b"msf1",
        b"avif",
        b"avis",
    }:
        return ImageUnsupportedError(
            f"HEIC and AVIF images are not decoded; convert to one of {known}"
        )
    return NotAnImageError(f"the data has no image signature; send one of {known}")


def _reason(error: BaseException) -> str:
    """Pillow's words without object addresses or paths, for a stranger to read."""
    return f"{type(error).__name__}: {error}".split("<", 1)[0][:120].strip()
