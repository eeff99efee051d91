"""Layouts of BMP: each is decoded to the pixels that the file describes, or rejected."""

import itertools
import struct

import bmp_files
import numpy as np
import pytest
from bmp_files import bmp_file

from model_store.errors import ImageUnsupportedError
from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare

HEIGHT, WIDTH = 17, 20
EXACT = Preprocessing(resize_mode="exact", resize=4, crop_height=HEIGHT, crop_width=WIDTH)
FLAT = Preprocessing(resize_mode="exact", resize=4, crop_height=4, crop_width=4)

PALETTES = {
    "colours": lambda count: np.random.default_rng(0).integers(0, 256, (count, 3)),
    "dark greys": lambda count: np.repeat(np.arange(count)[:, None], 3, axis=1),
    "black to white": lambda count: np.repeat(
        (np.arange(count) * 255 // max(1, count - 1))[:, None], 3, axis=1
    ),
}


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_bmp_with_a_palette_is_decoded_right_or_rejected(bits: int, palette: str) -> None:
    """Also with fewer colours than the depth allows. Pillow takes grey palettes for grey levels."""
    generator = np.random.default_rng(bits)
    compressions = {4: [bmp_files.RAW, bmp_files.RLE4], 8: [bmp_files.RAW, bmp_files.RLE8]}
    decoded = 0
    for count in sorted({1, 2, 2 ** (bits - 1), 2**bits - 1, 2**bits}):
        colours = PALETTES[palette](count)
        values = generator.integers(0, count, (HEIGHT, WIDTH))
        for header_size, compression in itertools.product(
            (12, 40, 124), compressions.get(bits, [bmp_files.RAW])
        ):
            if header_size == 12 and (count < 2**bits or compression != bmp_files.RAW):
                continue
            data = bmp_file(
                values, bits, palette=colours, header_size=header_size, compression=compression
            )
            try:
                pixels = prepare(data, EXACT)
            except ImageUnsupportedError:
                continue
            assert (pixels == colours[values]).all(), (count, header_size, compression)
            decoded += 1
    assert decoded or bits == 2


MASKS = [
    (16, (0x7C00, 0x3E0, 0x1F), True),
    (16, (0xF800, 0x7E0, 0x1F), True),
    (16, (0xF00, 0xF0, 0xF), False),
    (16, (0x7C00, 0x3E0, 0x1F, 0x8000), False),
    (24, (0xFF0000, 0xFF00, 0xFF), True),
    (32, (0xFF0000, 0xFF00, 0xFF), True),
    (32, (0xFF000000, 0xFF0000, 0xFF00), True),
    (32, (0xFF, 0xFF00, 0xFF0000), False),
    (32, (0x3FF00000, 0xFFC00, 0x3FF), False),
    (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), True),
    (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000), True),
]


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize(("bits", "masks", "is_decoded"), MASKS)
def test_a_bmp_with_masks_is_decoded_right_or_rejected(
    bits: int, masks: tuple[int, ...], is_decoded: bool, top_down: bool
) -> None:
    """Unusual masks are unsupported and not damaged."""
    colours = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, len(masks)))
    values, expected = np.zeros((HEIGHT, WIDTH), np.int64), np.zeros_like(colours)
    for channel, mask in enumerate(masks):
        lowest = mask & -mask
        stored = colours[..., channel] * (mask // lowest) // 255
        values |= stored * lowest
        expected[..., channel] = stored * 255 // (mask // lowest)
    alpha = expected[..., 3:] / 255 if len(masks) == 4 else 1
    over_white = expected[..., :3] * alpha + 255 * (1 - alpha)
    for header_size in (40, 52, 56, 108, 124)[2 if len(masks) == 4 else 0 :]:
        data = bmp_file(values, bits, masks=masks, header_size=header_size, top_down=top_down)
        if is_decoded:
            assert np.abs(prepare(data, EXACT) - over_white).max() <= 2
        else:
            with pytest.raises(ImageUnsupportedError):
                prepare(data, EXACT)


def test_a_bmp_whose_alpha_is_0_everywhere_is_opaque() -> None:
    """Many programs write it so, and every viewer shows the picture."""
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    data = bmp_file(np.full((4, 4), 0xC86432), 32, masks=masks, header_size=108)
    assert (prepare(data, FLAT) == (200, 100, 50)).all()


@pytest.mark.parametrize("compression", [4, 5, 6, 11])
def test_other_compressions_of_bmp_are_unsupported(compression: int) -> None:
    """JPEG or PNG inside, alpha bit fields, CMYK."""
    data = bytearray(bmp_file(np.zeros((4, 4), np.int64), 24))
    data[30:34] = struct.pack("<I", compression)
    with pytest.raises(ImageUnsupportedError):
        prepare(bytes(data), FLAT)
