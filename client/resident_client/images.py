"""Encodes images that are given as paths, bytes, open files, PIL images or arrays."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Final, Protocol, TypeGuard, cast

from resident_client.errors import ImageInputError

URL_SCHEMES: Final = ("http://", "https://")
_EXPECTED: Final = (
    "expected a path, a URL, bytes, an open binary file, a PIL image, or a uint8 array of shape "
    "[height, width], [height, width, 3] or [height, width, 4]"
)
_PNG_COLOUR_TYPES: Final = {1: 0, 3: 2, 4: 6}
"""Grey, RGB and RGBA by the number of channels."""
_PNG_MODES: Final = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
"""The modes that Pillow writes as PNG without a change."""


class BinaryFile(Protocol):
    """A file that is open for reading bytes."""

    def read(self) -> bytes:
        """Read to the end."""


class PillowImage(Protocol):
    """An image of Pillow."""

    @property
    def mode(self) -> str:
        """The mode of the pixels, such as `RGB`."""

    def convert(self, mode: str) -> Any:
        """Return the image in another mode."""

    def getexif(self) -> Any:
        """Return the metadata, with the orientation."""

    def save(self, fp: Any, format: str, **options: Any) -> None:  # noqa: A002  as in Pillow
        """Write the image to a file."""


class PixelArray(Protocol):
    """A uint8 array with the buffer protocol, like NumPy's: `[h, w]`, `[h, w, 3]`, `[h, w, 4]`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""

    def __len__(self) -> int: ...


ImageInput = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | PillowImage | PixelArray
)
"""An image: path or URL, bytes of an image file, open file, PIL image, or array of pixels."""


def is_url(image: ImageInput) -> TypeGuard[str]:
    """Whether the image has to be downloaded."""
    return isinstance(image, str) and image.lower().startswith(URL_SCHEMES)


def encode_image(image: ImageInput) -> bytes:
    """Return the bytes of an encoded image. Pixels are encoded as PNG, without loss.

    Raises:
        ImageInputError: The file cannot be read, or it is not an image.
    """
    try:
        if isinstance(image, str | os.PathLike):
            return Path(image).read_bytes()
        if hasattr(image, "save") and hasattr(image, "getexif"):
            return _encode_pillow(cast("PillowImage", image))
        if hasattr(image, "read"):
            return bytes(image.read())
    except OSError as error:
        raise ImageInputError(f"{image!r} cannot be read: {error.strerror or error}") from error
    try:
        view = memoryview(image)  # type: ignore[arg-type]  # anything else is a TypeError
    except TypeError:
        several = "; predict_many and embed_many take several" * isinstance(image, list | tuple)
        raise ImageInputError(f"{_EXPECTED}, got {type(image).__name__}{several}") from None
    return view.tobytes() if view.ndim == 1 else _encode_pixels(view)


def _encode_pillow(image: PillowImage) -> bytes:
    file = io.BytesIO()
    exif = image.getexif()
    # Pillow does not rotate the pixels, so the service gets the orientation and applies it.
    options = {"exif": exif} if exif else {}
    if image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    image.save(file, "PNG", compress_level=1, **options)
    return file.getvalue()


def _encode_pixels(pixels: memoryview) -> bytes:
    """Write a PNG (RFC 2083) of 8 bits per channel."""
    shape = pixels.shape or ()
    height, width, channels = (*shape, 1)[:3]
    if (
        pixels.format != "B"
        or pixels.ndim > 3
        or channels not in _PNG_COLOUR_TYPES
        or not height * width
    ):
        raise ImageInputError(f"{_EXPECTED}, got shape {list(shape)} and format {pixels.format!r}")
    data, stride = pixels.tobytes(), width * channels
    # Each row begins with a filter type; 0 means no filter.
    rows = b"".join(b"\0" + data[at : at + stride] for at in range(0, len(data), stride))
    head = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOUR_TYPES[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _png_chunk(kind, content)
        for kind, content in (
            (b"IHDR", head),
            (b"IDAT", zlib.compress(rows, 1)),
            (b"IEND", b""),
        )
    )


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
