"""Small or legal files that cost a decoder far more than their header says. All are generated."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Final

from pictures import png_chunk
from PIL import Image

MEBIBYTE: Final = 1024 * 1024


def small(image_format: str) -> bytes:
    """An ordinary image of 32 x 32 pixels."""
    buffer = io.BytesIO()
    Image.new("P" if image_format == "GIF" else "RGB", (32, 32)).save(buffer, image_format)
    return buffer.getvalue()


def jpeg_with(segment: bytes, size: int) -> bytes:
    data = small("JPEG")
    return data[:2] + segment * (size // len(segment)) + data[2:]


def jpeg_exif_segments(size: int) -> bytes:
    """Quadratic time: each segment is appended to a copy of the others."""
    return jpeg_with(b"\xff\xe1\0\x0aExif\0\0AB", size)


def jpeg_few_exif_segments(size: int) -> bytes:
    """The same with segments of 64 kB."""
    return jpeg_with(b"\xff\xe1\xff\xffExif\0\0" + bytes(0xFFF7), size)


def jpeg_empty_segments(size: int) -> bytes:
    return jpeg_with(b"\xff\xe5\0\2", size)


def jpeg_filler(size: int) -> bytes:
    """Pillow looks for the next marker byte by byte."""
    return jpeg_with(b"\xff\0\0\0", size)


def jpeg_padding(size: int) -> bytes:
    return jpeg_with(b"\xff", size)


def png_profiles_after_pixels(size: int) -> bytes:
    """Each inflates to a megabyte after the pixels were read."""
    data = small("PNG")
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(MEBIBYTE - 1)))
    return data[:-12] + profile * (size // len(profile)) + data[-12:]


def png_empty_data_chunks(size: int) -> bytes:
    data = small("PNG")
    position = data.index(b"IDAT") - 4
    empty = png_chunk(b"IDAT", b"")
    return data[:position] + empty * (size // len(empty)) + data[position:]


def gif_with(block: bytes, size: int) -> bytes:
    data = small("GIF")
    flags = data[10]
    header = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    return data[:header] + block * (size // len(block)) + data[header:]


def gif_comments(size: int) -> bytes:
    return gif_with(b"!\xfe\1a\0", size)


def gif_long_comment(size: int) -> bytes:
    return gif_with(b"!\xfe" + b"\1a" * (size // 2) + b"\0", size + 3)


def gif_extensions(size: int) -> bytes:
    return gif_with(b"!\xf9\1a\0", size)


def gif_filler(size: int) -> bytes:
    """Pillow looks for the next block byte by byte."""
    return gif_with(b"\0", size)


def bmp_run_length(width: int, height: int, codes: bytes) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 1, 1, 256, 0)
    offset = 14 + len(info) + 1024
    head = b"BM" + struct.pack("<IHHI", offset + len(codes), 0, 0, offset)
    return head + info + bytes(1024) + codes


def bmp_lines(size: int) -> bytes:
    """Every pixel of an empty line is appended by itself."""
    side = 7000
    return bmp_run_length(side, side, b"\1\0\0\0" * side)[: max(size, 4 * side + 2048)]


def bmp_line_ends(size: int) -> bytes:
    """Codes that end empty lines encode no pixel."""
    return bmp_run_length(32, 32, b"\0\0" * (size // 2))


def tiff(entries: dict[int, tuple[int, int, int]], rest: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory; `rest` begins at offset 1024."""
    directory = b"".join(
        struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items())
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    return head.ljust(1024, b"\0") + rest


def tiff_layout(width: int, height: int, compression: int) -> dict[int, tuple[int, int, int]]:
    return {
        256: (3, 1, width),
        257: (3, 1, height),
        258: (3, 1, 8),
        259: (3, 1, compression),
        262: (3, 1, 1),
        277: (3, 1, 1),
    }


def tiff_tile(_: int) -> bytes:
    """10 x 10 pixels in one tile of 10,000 x 10,000."""
    side = 10_000
    compressor = zlib.compressobj(9)
    pixels = b"".join(compressor.compress(bytes(side)) for _ in range(side)) + compressor.flush()
    tile = {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, 1024), 325: (4, 1, len(pixels))}
    return tiff(tiff_layout(10, 10, 8) | tile, pixels)


def tiff_strips(size: int) -> bytes:
    """Far more strips than rows."""
    count = size // 4
    strips = {273: (4, count, 1024), 278: (3, 1, 1), 279: (4, 1, 32)}
    return tiff(tiff_layout(32, 32, 1) | strips, struct.pack("<I", 300) * count)


def tiff_overlapping_values(size: int) -> bytes:
    """Each of 70 entries reads the same bytes."""
    private = {50_000 + tag: (1, size, 1024) for tag in range(70)}
    strip = {273: (4, 1, 1024), 278: (3, 1, 32), 279: (4, 1, 1024)}
    return tiff(tiff_layout(32, 32, 1) | strip | private, bytes(size))


BOMBS: Final[dict[str, Callable[[int], bytes]]] = {
    make.__name__: make
    for make in (
        jpeg_exif_segments,
        jpeg_few_exif_segments,
        jpeg_empty_segments,
        jpeg_filler,
        jpeg_padding,
        png_profiles_after_pixels,
        png_empty_data_chunks,
        gif_comments,
        gif_long_comment,
        gif_extensions,
        gif_filler,
        bmp_lines,
        bmp_line_ends,
        tiff_tile,
        tiff_strips,
        tiff_overlapping_values,
    )
}
"""By name; each makes a file of about so many bytes."""
