"""The short way for PNGs of just the model's size: the same pixels as the long way's, or none."""

import zlib
from itertools import product

import numpy as np
import pytest
from pictures import png_chunk
from PIL import Image
from store_factory import encode, oriented, png

from model_store.errors import ImageError
from model_store.image_header import open_image
from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, plain_png, prepare, to_pixels

SPEC = Preprocessing(resize=16, crop_height=16, crop_width=16)
FILTERS = ("none", "sub", "up", "average", "paeth")


def long_way(data: bytes) -> Pixels:
    """What `prepare` does without the short way."""
    return to_pixels(open_image(data, SPEC), SPEC)


def plain(rows: bytes, *before: bytes) -> bytes:
    """A PNG of the model's size."""
    return png(16, 16, 8, 2, rows, *before)


def rows_of(filters: bytes, seed: int = 0) -> bytes:
    """Sixteen rows of chance, each behind the number of its filter."""
    chance = np.random.default_rng(seed).integers(0, 256, (len(filters), 48), np.uint8)
    return b"".join(
        bytes([each]) + row.tobytes() for each, row in zip(filters, chance, strict=True)
    )


@pytest.mark.parametrize("number", range(len(FILTERS)), ids=FILTERS)
def test_every_filter_gives_the_same_pixels(number: int) -> None:
    """Of one filter for all rows, and of all in turn."""
    for filters in (bytes([number] * 16), bytes((number + row) % 5 for row in range(16))):
        data = plain(rows_of(filters, number))
        pixels = plain_png(data, SPEC)
        assert pixels is not None
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, long_way(data))


def test_what_pillow_writes_is_plain() -> None:
    """Most small PNGs come from it, and `prepare` takes the short way for them."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    data = encode(Image.fromarray(pixels), "PNG")
    found = plain_png(data, SPEC)
    assert found is not None
    assert np.array_equal(found, pixels)
    assert np.array_equal(prepare(data, SPEC), pixels)


ROWS = rows_of(bytes(16))
PLAIN = plain(ROWS)
OTHERS = {
    "another size": png(17, 17, 8, 2, rows_of(bytes(17))),
    "grey": png(16, 16, 8, 0, ROWS),
    "palette": encode(Image.new("P", (16, 16)), "PNG"),
    "alpha": encode(Image.new("RGBA", (16, 16)), "PNG"),
    "16 bits": png(16, 16, 16, 2, bytes(16 * 97)),
    "interlaced": png(16, 16, 8, 2, bytes(2000), interlace=1),
    "transparent colour": plain(ROWS, png_chunk(b"tRNS", bytes(6))),
    "orientation": encode(
        Image.new("RGB", (16, 16)), "PNG", **oriented(Image.new("RGB", (16, 16)), 6)
    ),
    "text": plain(ROWS, png_chunk(b"tEXt", b"Comment\0" + bytes(9))),
    "cut in two": plain(ROWS, png_chunk(b"IDAT", b"")),
    "more behind its end": PLAIN + b"\0",
    "a wrong checksum of the header": PLAIN.replace(PLAIN[29:33], b"\0\0\0\0", 1),
    "rows that are not deflated": PLAIN.replace(zlib.compress(ROWS)[:40], bytes(40), 1),
    "header alone": PLAIN[:33],
    "an end that begins in the header": PLAIN[:29] + PLAIN[-9:],
    "nothing": b"",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_all_others_take_the_long_way(kind: str) -> None:
    """Which knows all formats, and says what is wrong."""
    assert plain_png(OTHERS[kind], SPEC) is None


def test_limits_hold() -> None:
    """Of pixels, and of what must be resized first."""
    assert plain_png(PLAIN, SPEC, max_pixels=255) is None
    assert plain_png(PLAIN, SPEC.model_copy(update={"resize": 20}), 256) is None
    assert plain_png(PLAIN, SPEC, 256) is not None


@pytest.mark.parametrize("rows", [1, 15, 17])
def test_rows_may_be_missing_or_too_many(rows: int) -> None:
    """Pillow takes both, on either way."""
    data = plain(rows_of(bytes(rows)))
    pixels = plain_png(data, SPEC)
    assert pixels is not None
    assert np.array_equal(pixels, long_way(data))


def test_damage_never_makes_a_difference() -> None:
    """Whatever bit of a PNG is wrong: either the long way decides, or both find the same."""
    data = plain(b"".join(bytes([row % 5]) + bytes([16 * row]) * 48 for row in range(16)))
    short = 0
    for position, bit in product(range(len(data)), range(8)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << bit
        pixels = plain_png(bytes(damaged), SPEC)
        if pixels is not None:
            short += 1
            try:
                assert np.array_equal(pixels, long_way(bytes(damaged)))
            except ImageError as error:
                pytest.fail(f"bit {bit} of byte {position}: {error}")
    assert short  # checksums of the pixels are not looked at on either way
