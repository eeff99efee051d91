"""The header of an image: its format, its size, and the limits that are checked before decoding."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Final

from PIL import (
    AvifImagePlugin,
    Image,
    ImageFile,
    TiffImagePlugin,  # noqa: F401  Pillow would import these two lazily, on the first such image
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401  as above
)

from model_store import heif
from model_store.errors import (
    ImageCorruptError,
    ImageError,
    ImageTruncatedError,
    ImageUnsupportedError,
    NotAnImageError,
    TooManyPixelsError,
)
from model_store.geometry import largest_resized_size
from model_store.heif import HEIF, load_heif_plugin
from model_store.image_structure import check_structure
from model_store.jpeg_markers import count_scans
from model_store.pixel_layout import check_layout, explain_unreadable
from model_store.quiet_decoders import silence_decoders

if TYPE_CHECKING:
    from model_store.manifest import Preprocessing

silence_decoders()
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # several images are decoded at once already

FORMATS: Final = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *(("AVIF",) if AvifImagePlugin.SUPPORTED else ()),
    *((HEIF,) if heif.SUPPORTED else ()),
)  # fmt: skip
"""The formats that are decoded; AVIF only if Pillow was built with it, HEIF with the extra."""
DEFAULT_MAX_PIXELS: Final = 50 * 1024 * 1024
MAX_SCANNED_PIXELS: Final = 2**31
"""Limit of scans x pixels of a progressive JPEG: one to two seconds of decoding."""
PILLOW_MAX_PIXELS: Final = 89_478_485
"""Pillow rejects larger images or warns, so no setting may be higher."""
DECODE_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow raises for damaged data, found by flipping bits (`test_damaged_images.py`)."""


def sniff(data: bytes) -> str | None:
    """The format of an image by its first bytes: one of `FORMATS`, or None if it is unknown."""
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
    if brands := _container_brands(data):
        return _container_format(brands)
    # `BM` alone is a weak signature, so the header must also have a known size.
    if data.startswith(b"BM") and len(data) >= 18 and data[14:18] in _BMP_HEADER_SIZES:
        return "BMP"
    return None


def _container_format(brands: frozenset[bytes]) -> str | None:
    if b"avif" in brands or b"avis" in brands:
        return "AVIF" if AvifImagePlugin.SUPPORTED else None
    return HEIF if brands & _HEIF_BRANDS and heif.SUPPORTED else None


_BMP_HEADER_SIZES: Final = frozenset(
    size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124)
)


_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"})


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP image by its header; None for other data (RFC 9649, 2.5-2.7)."""
    if sniff(data[:64]) != "WEBP" or len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            sides = data[24:27], data[27:30]
            width, height = (1 + int.from_bytes(side, "little") for side in sides)
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[26:30]))
        case _:
            return None
    return (width, height) if width and height else None


def open_image(
    data: bytes, spec: Preprocessing, max_pixels: int = DEFAULT_MAX_PIXELS
) -> ImageFile.ImageFile:
    """Read the header of an image and check its limits. No pixel is decoded.

    Args:
        data: The encoded image.
        spec: The `preprocessing` block of the manifest.
        max_pixels: Limit for the pixels of the image, before and after the resize.

    Raises:
        ImageError: The header is damaged, or a limit is exceeded.
    """
    kind = sniff(data)
    if kind is None:
        raise _unknown_signature(data)
    check_structure(kind, data)
    if canvas := webp_canvas(data):
        _check_pixels(*canvas, spec, max_pixels)  # opening it allocates the canvas
    image = open_header(kind, data, max_pixels)
    width, height = image.size
    if kind == "JPEG" and (scans := count_scans(data)) * width * height > MAX_SCANNED_PIXELS:
        raise ImageCorruptError(
            f"the JPEG has {scans} scans of {width}x{height} pixels, more than a progressive image "
            "needs"
        )
    _check_pixels(width, height, spec, max_pixels)
    check_layout(image, data)
    return image


def _check_pixels(width: int, height: int, spec: Preprocessing, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"the image has {width}x{height} = {width * height:,} pixels; the limit is "
            f"{max_pixels:,}"
        )
    resized_width, resized_height = largest_resized_size(width, height, spec)
    if (resized := resized_width * resized_height) > max_pixels:
        raise TooManyPixelsError(
            f"the image has {width}x{height} pixels, and the model's preprocessing would enlarge "
            f"it to {resized_width}x{resized_height} = {resized:,}; the limit is {max_pixels:,}"
        )


def open_header(kind: str, data: bytes, max_pixels: int = PILLOW_MAX_PIXELS) -> ImageFile.ImageFile:
    """Open an image of this format. Unlike `open_image`, it checks no other limit.

    Raises:
        ImageError: The header is damaged, or the image has more than PILLOW_MAX_PIXELS.
    """
    if kind == HEIF:
        load_heif_plugin()
    try:
        return Image.open(io.BytesIO(data), formats=(kind,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooManyPixelsError(
            f"the image has more than {PILLOW_MAX_PIXELS:,} pixels; the limit is {max_pixels:,}"
        ) from None
    except UnidentifiedImageError as error:
        if unsupported := explain_unreadable(kind, data, error):
            raise unsupported from None
        raise ImageTruncatedError(
            f"the data begins like {kind} but has no complete header ({len(data)} bytes)"
        ) from None
    except DECODE_ERRORS as error:
        if unsupported := explain_unreadable(kind, data, error):
            raise unsupported from None
        if _is_cut(kind, data):
            raise ImageTruncatedError(
                f"the {kind} data ends before the image does ({len(data)} bytes)"
            ) from None
        raise ImageCorruptError(
            f"the {kind} header is damaged: {decode_error_reason(error)}"
        ) from None


def _is_cut(kind: str, data: bytes) -> bool:
    """Whether a file that cannot be opened is shorter than its format says."""
    if kind == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return kind == "PNG" and b"IEND" not in data


def _container_brands(data: bytes) -> frozenset[bytes]:
    """The brands of an ISO media file: HEIC, AVIF or a video (ISO/IEC 14496-12, 4.3)."""
    if data[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return frozenset({data[8:12], *(data[i : i + 4] for i in range(16, end, 4))})


def _unknown_signature(data: bytes) -> ImageError:
    known = ", ".join(FORMATS)
    brands = _container_brands(data)
    if b"avif" in brands or b"avis" in brands:
        return ImageUnsupportedError(
            f"AVIF images are not supported here; convert the image to one of {known}"
        )
    if brands & _HEIF_BRANDS:
        return ImageUnsupportedError(
            f"HEIC images are not supported here; convert the image to one of {known}"
        )
    return NotAnImageError(f"the data has no image signature; send one of {known}")


def decode_error_reason(error: BaseException) -> str:
    """The error of Pillow without object addresses and paths."""
    return f"{type(error).__name__}: {error}".split("<", 1)[0][:120].strip()
