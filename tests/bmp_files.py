"""Writes BMP files of any layout, for tests of the decoder."""

import struct
from collections.abc import Sequence

import numpy as np

RAW, RLE8, RLE4, BITFIELDS = 0, 1, 2, 3


def bmp_file(
    values: np.ndarray,
    bits: int,
    *,
    palette: np.ndarray | None = None,
    masks: Sequence[int] = (),
    header_size: int = 40,
    compression: int | None = None,
    top_down: bool = False,
) -> bytes:
    """Encode pixels as a BMP file.

    Args:
        values: Stored pixels `[height, width]`: indices, or colours packed by the masks.
        bits: Bits per pixel.
        palette: RGB colours `[colours, 3]`.
        masks: Masks of red, green, blue and, in a header of 56 bytes or more, alpha.
        header_size: 12 (OS/2), 40, 52, 56, 108 or 124 bytes.
        compression: Of the pixels; None is `RAW`, or `BITFIELDS` with masks.
        top_down: Store the first row first.
    """
    height, width = values.shape
    if compression is None:
        compression = BITFIELDS if masks else RAW
    rows = values if top_down else values[::-1]
    pixels = _run_lengths(rows, bits) if compression in {RLE8, RLE4} else _packed(rows, bits)
    colours = 0 if palette is None else len(palette)
    if header_size == 12:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        header = struct.pack(
            "<IiiHHIIiiII",
            header_size,
            width,
            -height if top_down else height,
            1,
            bits,
            compression,
            len(pixels),
            0,
            0,
            colours,
            0,
        )
    header += struct.pack(f"<{len(masks)}I", *masks)
    header = header.ljust(header_size, b"\0")
    entry = "3B" if header_size == 12 else "3Bx"
    for red, green, blue in () if palette is None else palette.tolist():
        header += struct.pack(entry, blue, green, red)
    offset = 14 + len(header)
    return struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset) + header + pixels


def _packed(rows: np.ndarray, bits: int) -> bytes:
    """Rows of pixels; each has a multiple of 4 bytes."""
    if bits < 8:
        ones = (rows[..., None].astype(np.uint8) >> np.arange(bits - 1, -1, -1)) & 1
        packed = np.packbits(ones.reshape(len(rows), -1).astype(np.uint8), axis=1)
    else:
        packed = np.ascontiguousarray(rows.astype("<u4")).view(np.uint8)
        packed = packed.reshape(*rows.shape, 4)[..., : bits // 8].reshape(len(rows), -1)
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4))).tobytes()


def _run_lengths(rows: np.ndarray, bits: int) -> bytes:
    """Every pixel as a run of its own, and the end of each line."""
    data = b""
    for row in rows.tolist():
        for index in row:
            data += bytes([1, index if bits == 8 else index << 4])
        data += b"\0\0"
    return data + b"\0\1"
