"""Bounds for the parts of an image file, checked before Pillow reads it.

The limit for pixels does not limit the segments, chunks, blocks, strips and tiles that a decoder
loops over or allocates. These bounds are far above those of real files. They reject the known ways
to make a small file expensive to decode. Against unknown ones, the service decodes in processes
with limited memory and time.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Final

from model_store.errors import ImageTooExpensiveError

MAX_JPEG_SEGMENTS: Final = 1024
MAX_EXIF_SEGMENTS: Final = 32
"""For each one, Pillow copies all earlier ones."""
MAX_JPEG_FILLER: Final = 64 * 1024
"""Bytes between segments, which Pillow skips one by one."""
MAX_PNG_CHUNKS: Final = 256
"""Chunks without pixels: each may inflate to a megabyte."""
MAX_PNG_DATA_CHUNKS: Final = 64 * 1024
MAX_GIF_BLOCKS: Final = 64 * 1024
MAX_GIF_COMMENT_BLOCKS: Final = 1024
"""For each one, Pillow copies all earlier ones."""
MAX_TIFF_ENTRIES: Final = 1024
MAX_TIFF_STRIPS: Final = 64 * 1024
MAX_TIFF_TILE_PIXELS: Final = 1024 * 1024
"""Larger tiles are allowed up to four times the size of the image."""
MAX_RUN_LENGTH_PIXELS: Final = 4 * 1024 * 1024
"""Limit for a run-length encoded BMP, which Pillow decodes in Python, pixel by pixel."""

_GIF_EXTENSION, _GIF_COMMENT, _GIF_IMAGE = 0x21, b"!\xfe", 0x2C
_PNG_PIXELS: Final = frozenset({b"IDAT", b"fdAT", b"fcTL"})  # the last two are for animations
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_STRIP_TAGS: Final = frozenset({273, 279, 324, 325})  # offsets and byte counts of strips and tiles
_TIFF_TYPE_BYTES: Final = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}
_JPEG_WITHOUT_LENGTH: Final = frozenset({0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})
_START_OF_SCAN, _APP1 = 0xDA, 0xE1


def check_structure(kind: str, data: bytes) -> None:
    """Check the bounds of this module.

    Args:
        kind: The format, as `sniff` returns it.
        data: The encoded image.

    Raises:
        ImageTooExpensiveError: The file has more parts than real images have.
    """
    if kind in _CHECKS:
        _CHECKS[kind](data)


def _check_jpeg(data: bytes) -> None:
    """Segments before the first scan (ITU T.81, B.1)."""
    position, segments, exif_segments, filler = 2, 0, 0, 0
    while (marker := data.find(b"\xff", position)) >= 0 and marker + 1 < len(data):
        filler += marker - position
        code = data[marker + 1]
        if code in (0x00, 0xFF):  # stuffed or padded
            filler += 1
            position = marker + (2 if code == 0 else 1)
        else:
            segments += 1
            position = marker + 2
            if code == _START_OF_SCAN:
                return
            exif_segments += code == _APP1 and data[marker + 4 : marker + 8] == b"Exif"
            if code not in _JPEG_WITHOUT_LENGTH:
                position += max(2, int.from_bytes(data[marker + 2 : marker + 4], "big"))
        _check(segments, MAX_JPEG_SEGMENTS, "segments before the first scan", "JPEG")
        _check(exif_segments, MAX_EXIF_SEGMENTS, "Exif segments", "JPEG")
        _check(filler, MAX_JPEG_FILLER, "bytes between segments", "JPEG")


def _check_png(data: bytes) -> None:
    """Chunks, including those after the pixels (PNG, 11.2)."""
    position, chunks, data_chunks = 8, 0, 0
    while position + 8 <= len(data):
        kind = data[position + 4 : position + 8]
        if kind == b"IEND":
            return
        if kind in _PNG_PIXELS:
            data_chunks += 1
        else:
            chunks += 1
        _check(chunks, MAX_PNG_CHUNKS, "chunks without pixels", "PNG")
        _check(data_chunks, MAX_PNG_DATA_CHUNKS, "chunks of pixels", "PNG")
        position += 12 + int.from_bytes(data[position : position + 4], "big")


def _check_gif(data: bytes) -> None:
    """Blocks of extensions before the first frame (GIF89a, 15 to 26)."""
    if len(data) < 13:
        return
    flags = data[10]
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    blocks = comment_blocks = 0
    while position < len(data) and data[position] != _GIF_IMAGE:
        is_comment = data[position : position + 2] == _GIF_COMMENT
        length = 2 if data[position] == _GIF_EXTENSION else 0
        while length:
            position += length
            blocks += 1
            comment_blocks += is_comment
            _check(blocks, MAX_GIF_BLOCKS, "blocks before the first frame", "GIF")
            _check(comment_blocks, MAX_GIF_COMMENT_BLOCKS, "blocks of comments", "GIF")
            size = data[position] if position < len(data) else 0
            length = 1 + size if size else 0
        position += 1  # the empty block that ends an extension, or a byte between extensions
        blocks += 1
        _check(blocks, MAX_GIF_BLOCKS, "blocks before the first frame", "GIF")


def _check_bmp(data: bytes) -> None:
    """Pixels of a run-length encoded image, and bytes that encode none (BITMAPINFOHEADER)."""
    if len(data) < 34 or int.from_bytes(data[14:18], "little") < 40:
        return
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in (1, 2):  # BI_RLE8, BI_RLE4
        pixels = abs(width * height)
        _check(pixels, MAX_RUN_LENGTH_PIXELS, "run-length encoded pixels", "BMP")
        _check(len(data), 64 * 1024 + 4 * pixels, "bytes for its pixels", "BMP")


def _check_tiff(data: bytes) -> None:
    """Entries of the first directory, strips, and the size of tiles (TIFF 6.0, 2 and 15)."""
    sizes = {_WIDTH: 0, _HEIGHT: 0, _TILE_WIDTH: 0, _TILE_HEIGHT: 0}
    value_bytes = 0
    for entries, (tag, kind, count, value) in enumerate(_tiff_entries(data), start=1):
        value_bytes += _TIFF_TYPE_BYTES.get(kind, 1) * count
        _check(entries, MAX_TIFF_ENTRIES, "entries", "TIFF")
        # Values that overlap would be read once per entry.
        _check(value_bytes, len(data) + 64 * 1024, "bytes in its entries", "TIFF")
        if tag in _STRIP_TAGS:
            _check(count, MAX_TIFF_STRIPS, "strips or tiles", "TIFF")
        if tag in sizes:
            sizes[tag] = value
    largest = max(MAX_TIFF_TILE_PIXELS, 4 * sizes[_WIDTH] * sizes[_HEIGHT])
    _check(sizes[_TILE_WIDTH] * sizes[_TILE_HEIGHT], largest, "pixels in a tile", "TIFF")


def _tiff_entries(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count and value (an integer, if there is only one) of the first directory."""
    order = "<" if data.startswith(b"II") else ">"
    big = 43 in data[2:4]
    offset_code, count_code = ("Q", "Q") if big else ("I", "H")
    entry = struct.Struct(f"{order}HH{offset_code}")
    value_bytes = struct.calcsize(offset_code)
    try:
        (position,) = struct.unpack_from(order + offset_code, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + count_code, data, position)
        position += struct.calcsize(count_code)
        for _ in range(count):
            tag, kind, values = entry.unpack_from(data, position)
            width = min(_TIFF_TYPE_BYTES.get(kind, 1), value_bytes)
            begin = position + entry.size
            field = data[begin : begin + width]
            yield tag, kind, values, int.from_bytes(field, "little" if order == "<" else "big")
            position = begin + value_bytes
    except (struct.error, OverflowError):  # cut off; Pillow reports it
        return


def _check(found: int, limit: int, parts: str, kind: str) -> None:
    if found > limit:
        raise ImageTooExpensiveError(f"the {kind} has more than {limit:,} {parts}")


_CHECKS: Final[dict[str, Callable[[bytes], None]]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "GIF": _check_gif,
    "BMP": _check_bmp,
    "TIFF": _check_tiff,
}
