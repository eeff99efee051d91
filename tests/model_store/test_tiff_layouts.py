"""Layouts of TIFF: each is decoded to the pixels that the file describes, or rejected."""

import itertools

import numpy as np
import pytest
import tiff_files
from tiff_files import sample_levels, tiff_file

from model_store.errors import ImageCorruptError, ImageTruncatedError, ImageUnsupportedError
from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare

HEIGHT, WIDTH = 17, 20
EXACT = Preprocessing(resize_mode="exact", resize=4, crop_height=HEIGHT, crop_width=WIDTH)
FLAT = Preprocessing(resize_mode="exact", resize=4, crop_height=4, crop_width=4)
SAMPLES = {
    tiff_files.WHITE_IS_ZERO: 1,
    tiff_files.BLACK_IS_ZERO: 1,
    tiff_files.RGB: 3,
    tiff_files.PALETTE: 1,
    tiff_files.CMYK: 4,
}


def tiff_colours(
    values: np.ndarray, bits: int, photometric: int, extra: tuple[int, ...], colour_map: list[int]
) -> np.ndarray:
    """The colours over white that TIFF 6.0 gives the samples."""
    level = sample_levels(values, bits)
    if photometric == tiff_files.PALETTE:
        colours = (np.reshape(colour_map, (3, -1)) >> 8)[:, values[..., 0]].transpose(1, 2, 0)
    elif photometric == tiff_files.CMYK:
        colours = (255 - level[..., :3]) * (255 - level[..., 3:4]) / 255
    elif photometric == tiff_files.RGB:
        colours = level[..., :3]
    else:
        grey = level[..., :1] if photometric == tiff_files.BLACK_IS_ZERO else 255 - level[..., :1]
        colours = np.repeat(grey, 3, axis=2)
    if not extra or extra[0] == 0:
        return colours
    alpha = level[..., SAMPLES[photometric]][..., None] / 255
    return (colours if extra[0] == 1 else colours * alpha) + 255 * (1 - alpha)


TIFF_DEPTHS = [1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32]
TIFF_LAYOUTS = [
    (photometric, bits, extra)
    for photometric, bits, extra in itertools.product(SAMPLES, TIFF_DEPTHS, [(), (0,), (1,), (2,)])
    if bits <= 8 or photometric != tiff_files.PALETTE
]
DECODED_TIFF_LAYOUTS = {
    *itertools.product((tiff_files.WHITE_IS_ZERO, tiff_files.BLACK_IS_ZERO), (1, 2, 4, 8), [()]),
    *itertools.product([tiff_files.PALETTE], (1, 2, 4, 8), [()]),
    *itertools.product([tiff_files.BLACK_IS_ZERO], [8], [(0,), (1,), (2,)]),
    *itertools.product([tiff_files.RGB], (8, 16), [(), (0,), (1,), (2,)]),
    *itertools.product([tiff_files.CMYK], (8, 16), [()]),
    (tiff_files.BLACK_IS_ZERO, 16, ()),
}
"""What scanners and image editors write, as photometric, bits and extra samples."""


@pytest.mark.parametrize(("photometric", "bits", "extra"), TIFF_LAYOUTS)
def test_a_tiff_is_decoded_right_or_rejected(
    photometric: int, bits: int, extra: tuple[int, ...]
) -> None:
    """Byte orders, planes, compressions, bit orders, predictors, strips and tiles."""
    generator = np.random.default_rng(bits)
    samples = SAMPLES[photometric] + len(extra)
    values = generator.integers(0, 2**bits, (HEIGHT, WIDTH, samples), np.uint64)
    if extra == (1,):  # premultiplied colours are no lighter than their alpha
        values = np.minimum(values, values[..., -1:])
    kind = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    colour_map = []
    if photometric == tiff_files.PALETTE:
        colour_map = [level * 257 for level in generator.integers(0, 256, 3 << bits).tolist()]
    expected = tiff_colours(values, bits, photometric, extra, colour_map)
    decoded = []
    for order, planar, compression, reversed_bits, predictor, tile in itertools.product(
        "<>", (False, True), (tiff_files.RAW, tiff_files.DEFLATE), *[(False, True)] * 2, (0, 16)
    ):
        if predictor and (compression == tiff_files.RAW or bits not in {8, 16, 32}):
            continue
        data = tiff_file(
            values.astype(kind), bits, photometric, order=order, planar=planar,
            extra_samples=extra, colour_map=colour_map, compression=compression,
            reversed_bits=reversed_bits, predictor=predictor, tile=tile,
        )  # fmt: skip
        try:
            pixels = prepare(data, EXACT)
        except ImageUnsupportedError:
            continue
        layout = (order, planar, compression, reversed_bits, predictor, tile)
        assert np.abs(pixels - expected).max() <= 2, layout
        decoded.append(layout)
    usual = {
        (order, False, compression, False, predictor, tile)
        for order, (compression, predictor), tile in itertools.product(
            "<>", _usual_compressions(bits), (0, 16)
        )
    }
    if (photometric, bits, extra) in DECODED_TIFF_LAYOUTS:
        assert usual <= set(decoded)


def _usual_compressions(bits: int) -> list[tuple[int, bool]]:
    """Compressions, with and without a predictor."""
    both = [(tiff_files.RAW, False), (tiff_files.DEFLATE, False)]
    return [*both, (tiff_files.DEFLATE, True)] if bits >= 8 else both


@pytest.mark.parametrize(
    ("bits", "sample_format", "kind"),
    [
        (8, tiff_files.SIGNED, "i1"),
        (16, tiff_files.SIGNED, "i2"),
        (32, tiff_files.SIGNED, "i4"),
        (32, tiff_files.FLOAT, "f4"),
        (64, tiff_files.FLOAT, "f8"),
    ],
)
@pytest.mark.parametrize("photometric", [tiff_files.BLACK_IS_ZERO, tiff_files.RGB])
@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_and_floating_point_samples_are_unsupported(
    bits: int, sample_format: int, kind: str, photometric: int, order: str
) -> None:
    """Their range is not defined, so the file is good and cannot be classified."""
    values = np.ones((4, 4, SAMPLES[photometric]), kind)
    data = tiff_file(values, bits, photometric, order=order, sample_format=sample_format)
    with pytest.raises(ImageUnsupportedError):
        prepare(data, FLAT)


@pytest.mark.parametrize("compression", [tiff_files.RAW, tiff_files.DEFLATE])
def test_a_palette_of_bytes_is_read_as_bytes(compression: int) -> None:
    """TIFF asks for 16 bits per colour; some programs write 0 to 255, as viewers know."""
    colour_map = [level if index == 7 else 0 for level in (200, 100, 50) for index in range(256)]
    values = np.full((4, 4, 1), 7)
    data = tiff_file(values, 8, tiff_files.PALETTE, colour_map=colour_map, compression=compression)
    assert (prepare(data, FLAT) == (200, 100, 50)).all()


def test_subsampled_colours_without_compression_are_unsupported() -> None:
    """Pillow reads them as if each pixel had its own colour."""
    values = np.full((4, 4, 3), 128)
    whole = tiff_file(values, 8, tiff_files.YCBCR, more_tags=[(530, 3, [1, 1])])
    assert (prepare(whole, FLAT) == 128).all()
    with pytest.raises(ImageUnsupportedError):
        prepare(tiff_file(values, 8, tiff_files.YCBCR, more_tags=[(530, 3, [2, 2])]), FLAT)


def test_a_tiff_that_is_cut_is_not_unsupported() -> None:
    """Neither in its directory nor in its pixels."""
    values = np.zeros((64, 64, 3), np.uint8)
    data = tiff_file(values, 8, tiff_files.RGB)
    for length in (60, len(data) // 2):
        with pytest.raises((ImageTruncatedError, ImageCorruptError)):
            prepare(data[:length], FLAT)
