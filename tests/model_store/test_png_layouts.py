"""Layouts of PNG: each is decoded to the pixels that the file describes, or rejected."""

import numpy as np
import pytest
from store_factory import png, png_chunk
from tiff_files import packed_rows, sample_levels

from model_store.errors import ImageUnsupportedError
from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare

HEIGHT, WIDTH = 17, 20
EXACT = Preprocessing(resize_mode="exact", resize=4, crop_height=HEIGHT, crop_width=WIDTH)
FLAT = Preprocessing(resize_mode="exact", resize=4, crop_height=4, crop_width=4)
GREY, RGB = 0, 2


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "transparent", "expected"),
    [
        (1, GREY, b"\xf0", b"\0\1", 255),
        (1, GREY, b"\0", b"\0\1", 0),
        (2, GREY, b"\xaa", b"\0\2", 255),
        (2, GREY, b"\xaa", b"\0\1", 170),
        (4, GREY, b"\x33\x33", b"\0\3", 255),
        (4, GREY, b"\x33\x33", b"\0\x33", 255),  # the low bits count
        (4, GREY, b"\x33\x33", b"\0\4", 51),
        (8, GREY, b"\x33" * 4, b"\0\x33", 255),
        (16, GREY, b"\x12\x34" * 4, b"\x12\x34", 255),
        (16, GREY, b"\x12\x34" * 4, b"\x12\x35", 0x12),
        (8, RGB, b"\1\2\3" * 4, b"\0\1\0\2\0\3", 255),
        (8, RGB, b"\1\1\1" * 4, b"\0\1\0\2\0\3", 1),
        (16, RGB, b"\x12\x34" * 12, b"\x12\x34" * 3, None),
        (16, RGB, b"\x10\xff\x20\xff\x30\xff" * 4, b"\0\x10\0\x20\0\x30", None),
    ],
)
def test_the_transparent_colour_of_a_png(
    depth: int, colour_type: int, row: bytes, transparent: bytes, expected: int | None
) -> None:
    """It has the range of the stored samples. Pillow keeps no 16-bit colours to compare."""
    data = png(4, 4, depth, colour_type, (b"\0" + row) * 4, png_chunk(b"tRNS", transparent))
    if expected is None:
        with pytest.raises(ImageUnsupportedError):
            prepare(data, FLAT)
    else:
        assert (prepare(data, FLAT) == expected).all()


PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of the colour types: grey, RGB, palette, grey with alpha, RGB with alpha."""
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
ADAM7 += [(0, 1, 1, 2)]
"""Passes of interlaced PNGs: first column and row, steps of columns and rows."""


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(
    ("colour_type", "depth"),
    [(colour_type, depth) for colour_type, depths in PNG_DEPTHS.items() for depth in depths],
)
def test_a_png_is_decoded(colour_type: int, depth: int, interlace: int) -> None:
    """Every colour type in every depth that the specification allows, with and without Adam7."""
    generator = np.random.default_rng(depth)
    samples = PNG_SAMPLES[colour_type]
    values = generator.integers(0, 2**depth, (HEIGHT, WIDTH, samples))
    palette = generator.integers(0, 256, (2**depth, 3), np.uint8) if colour_type == 3 else None
    passes = ADAM7 if interlace else [(0, 0, 1, 1)]
    rows = b"".join(
        b"\0" + packed_rows(row[None], depth, ">")
        for left, top, columns, lines in passes
        for row in values[top::lines, left::columns]
    )
    chunks = [] if palette is None else [png_chunk(b"PLTE", palette.tobytes())]
    data = png(WIDTH, HEIGHT, depth, colour_type, rows, *chunks, interlace=interlace)
    level = sample_levels(values, depth)
    if palette is not None:
        expected = palette[values[..., 0]].astype(float)
    else:
        colours = samples - (colour_type in {4, 6})
        alpha = level[..., colours:] / 255 if colours < samples else 1
        expected = np.broadcast_to(level[..., :colours], (HEIGHT, WIDTH, 3)) * alpha
        expected = expected + 255 * (1 - alpha)
    assert np.abs(prepare(data, EXACT) - expected).max() <= 1


def test_one_transparent_level_of_16_bits_leaves_the_others() -> None:
    """The background replaces the transparent pixels only."""
    rows = b"\0" + b"\x12\x34\x12\x35\x12\x34\x12\x35"
    data = png(4, 4, 16, GREY, rows * 4, png_chunk(b"tRNS", b"\x12\x34"))
    assert prepare(data, FLAT)[0, :, 0].tolist() == [255, 0x12, 255, 0x12]
