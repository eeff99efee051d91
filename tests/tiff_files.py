"""Writes TIFF files of any layout, for tests of the decoder."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

RAW, DEFLATE = 1, 8
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
_SIZES = {0: ("I", 4), 3: ("H", 2), 4: ("I", 4)}  # 0 is no type of TIFF


def tiff_file(
    values: np.ndarray,
    bits: int,
    photometric: int,
    *,
    order: str = "<",
    planar: bool = False,
    sample_format: int = UNSIGNED,
    extra_samples: Sequence[int] = (),
    colour_map: Sequence[int] = (),
    compression: int = RAW,
    reversed_bits: bool = False,
    predictor: bool = False,
    tile: int = 0,
    more_tags: Sequence[tuple[int, int, Sequence[int]]] = (),
) -> bytes:
    """Encode samples as a TIFF file.

    Args:
        values: Stored samples `[height, width, samples]`.
        bits: Bits per sample.
        photometric: The tag PhotometricInterpretation.
        order: `<` for little-endian, `>` for big-endian.
        planar: Store each sample in a plane of its own.
        sample_format: The tag SampleFormat.
        extra_samples: The tag ExtraSamples.
        colour_map: The tag ColorMap.
        compression: `RAW` or `DEFLATE`.
        reversed_bits: FillOrder 2.
        predictor: Store differences of neighbours (8 and 16 bits).
        tile: Side of the tiles; 0 stores one strip.
        more_tags: Further tags as (tag, type, values).
    """
    height, width, samples = values.shape
    planes = [values[..., [i]] for i in range(samples)] if planar else [values]
    blocks = [block for plane in planes for block in _blocks(plane, tile)]
    chunks = []
    for block in blocks:
        stored = block
        if predictor:
            stored = np.concatenate([block[:, :1], block[:, 1:] - block[:, :-1]], axis=1)
        data = packed_rows(stored, bits, order)
        if compression == DEFLATE:
            data = zlib.compress(data)
        if reversed_bits:
            ones = np.unpackbits(np.frombuffer(data, np.uint8))
            data = np.packbits(ones, bitorder="little").tobytes()
        chunks.append(data)
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * samples),
        259: (3, [compression]),
        262: (3, [photometric]),
        277: (3, [samples]),
        284: (3, [2 if planar else 1]),
        339: (3, [sample_format] * samples),
    }
    if reversed_bits:
        tags[266] = (3, [2])
    if predictor:
        tags[317] = (3, [2])
    if colour_map:
        tags[320] = (3, colour_map)
    if extra_samples:
        tags[338] = (3, extra_samples)
    if tile:
        tags |= {322: (4, [tile]), 323: (4, [tile])}
    else:
        tags[278] = (4, [height])
    tags |= {tag: (kind, content) for tag, kind, content in more_tags}
    offsets, counts = (324, 325) if tile else (273, 279)
    tags[counts] = (4, [len(chunk) for chunk in chunks])
    tags[offsets] = (4, [0] * len(chunks))
    start = 8 + 2 + 12 * len(tags) + 4
    start += sum(_value_bytes(*tag) for tag in tags.values() if _value_bytes(*tag) > 4)
    tags[offsets] = (4, [start + sum(map(len, chunks[:i])) for i in range(len(chunks))])
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", 8) + _directory(tags, order) + b"".join(chunks)


def sample_levels(values: np.ndarray, bits: int) -> np.ndarray:
    """Stored samples as 0 to 255. Of more than 8 bits the high byte counts."""
    values = values.astype(np.int64)
    return values >> (bits - 8) if bits >= 8 else values * 255 // (2**bits - 1)


def _blocks(plane: np.ndarray, tile: int) -> list[np.ndarray]:
    if not tile:
        return [plane]
    height, width, _ = plane.shape
    padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
    return [
        padded[y : y + tile, x : x + tile]
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]


def packed_rows(values: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of samples; each row begins at a byte."""
    rows = values.reshape(len(values), -1)
    if values.dtype.kind == "f" or bits in {8, 16, 32, 64}:
        kind = values.dtype.kind if values.dtype.kind == "f" else "u"
        return rows.astype(f"{order}{kind}{bits // 8}").tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    ones = (rows[..., None].astype(np.uint64) >> shifts.astype(np.uint64)) & 1
    return np.packbits(ones.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def _value_bytes(kind: int, values: Sequence[int]) -> int:
    return _SIZES[kind][1] * len(values)


def _directory(tags: dict[int, tuple[int, Sequence[int]]], order: str) -> bytes:
    entries, values = b"", b""
    start = 8 + 2 + 12 * len(tags) + 4
    for tag, (kind, content) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(content)}{_SIZES[kind][0]}", *content)
        inline = data.ljust(4, b"\0")
        if len(data) > 4:
            inline = struct.pack(order + "I", start + len(values))
            values += data
        entries += struct.pack(order + "HHI", tag, kind, len(content)) + inline
    return struct.pack(order + "H", len(tags)) + entries + bytes(4) + values
