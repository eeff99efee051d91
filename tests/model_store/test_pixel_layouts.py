"""Layouts within a format: each is decoded to the pixels that its file describes, or rejected."""

import itertools
import struct
import subprocess
import sys
from pathlib import Path

import bmp_files
import numpy as np
import pytest
import tiff_files
from bmp_files import bmp_file
from PIL import Image
from store_factory import animation, encode, png, png_chunk, scene
from tiff_files import tiff_file

from model_store.errors import (
    ImageCorruptError,
    ImageError,
    ImageTruncatedError,
    ImageUnsupportedError,
)
from model_store.image_header import open_image
from model_store.jpeg_markers import END, count_scans
from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, prepare, reduction

HEIGHT, WIDTH = 17, 20
EXACT = Preprocessing(resize_mode="exact", resize=4, crop_height=HEIGHT, crop_width=WIDTH)
FLAT = Preprocessing(resize_mode="exact", resize=4, crop_height=4, crop_width=4)
SCENE = scene(WIDTH, HEIGHT)
SAMPLES = {
    tiff_files.WHITE_IS_ZERO: 1,
    tiff_files.BLACK_IS_ZERO: 1,
    tiff_files.RGB: 3,
    tiff_files.PALETTE: 1,
    tiff_files.CMYK: 4,
}


def levels(values: np.ndarray, bits: int) -> np.ndarray:
    """Stored samples as 0 to 255. Of more than 8 bits the high byte counts."""
    values = values.astype(np.int64)
    return values >> (bits - 8) if bits >= 8 else values * 255 // (2**bits - 1)


def tiff_colours(
    values: np.ndarray, bits: int, photometric: int, extra: tuple[int, ...], colour_map: list[int]
) -> np.ndarray:
    """The colours over white that TIFF 6.0 gives the samples."""
    level = levels(values, bits)
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


def test_one_transparent_level_of_16_bits_leaves_the_others() -> None:
    """The background replaces the transparent pixels only."""
    rows = b"\0" + b"\x12\x34\x12\x35\x12\x34\x12\x35"
    data = png(4, 4, 16, GREY, rows * 4, png_chunk(b"tRNS", b"\x12\x34"))
    assert prepare(data, FLAT)[0, :, 0].tolist() == [255, 0x12, 255, 0x12]


JPEGS = {
    "baseline": {},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
}


def noise(mode: str = "RGB") -> Image.Image:
    """Every block has coefficients, so that a missing byte changes pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", JPEGS)
class TestJpegEnd:
    """The end of a JPEG: missing, or followed by other data."""

    def test_only_the_end_marker_may_be_missing(self, options: str, mode: str) -> None:
        """Of a JPEG that is cut earlier the pixels are not known."""
        data = encode(noise(mode), "JPEG", **JPEGS[options])
        whole = prepare(data, EXACT)
        assert (prepare(data[:-2], EXACT) == whole).all()
        assert (prepare(data[:-1], EXACT) == whole).all()
        accepted = []
        for missing in range(3, len(data) - 700, 3):
            try:
                pixels = prepare(data[:-missing], EXACT)
            except (ImageTruncatedError, ImageCorruptError):
                continue
            assert (pixels == whole).all(), missing  # padding, or a block outside the image
            accepted.append(missing)
        assert max(accepted, default=0) < 16

    def test_data_behind_the_image_does_not_count(self, options: str, mode: str) -> None:
        """Phones append a video, some cameras their raw data: with bytes like those of scans."""
        data = encode(noise(mode), "JPEG", **JPEGS[options])
        appended = data + b"\xff\xda\0\x0c" * 3_000_000
        assert count_scans(appended) == count_scans(data, enough=0)
        assert (prepare(appended, EXACT) == prepare(data, EXACT)).all()


def test_an_end_inside_a_segment_does_not_hide_scans() -> None:
    """A thumbnail has an end of its own, and a comment may contain anything."""
    data = encode(SCENE, "JPEG", progressive=True)
    comment = b"\xff\xfe\0\x04" + END
    scans = data.index(b"\xff\xda")
    with_comment = data[:2] + comment + data[2:scans] + comment + data[scans:]
    assert count_scans(with_comment, enough=0) == count_scans(data, enough=0) > 1


def test_a_jpeg_of_countless_segments_is_rejected() -> None:
    """Where counting its scans would take long."""
    data = encode(SCENE, "JPEG")
    with pytest.raises(ImageCorruptError):
        count_scans(data[:2] + b"\xff\xe5\0\2" * 5000 + data[2:], enough=0)


@pytest.mark.parametrize(
    ("marker", "bits", "components"),
    [(0xC1, 12, 3), (0xC2, 12, 1), (0xC0, 8, 2), (0xC3, 8, 3), (0xC7, 8, 1)],
)
def test_other_processes_of_jpeg_are_unsupported(marker: int, bits: int, components: int) -> None:
    """12 bits per sample, two components, lossless and hierarchical: not damaged, not cut."""
    data = bytearray(encode(SCENE.convert("L") if components == 1 else SCENE, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4], data[frame + 9] = marker, bits, components
    with pytest.raises(ImageUnsupportedError):
        prepare(bytes(data), FLAT)


def test_mpo_is_decoded_at_a_fraction_of_its_size() -> None:
    """Phones write a JPEG with a second picture behind it."""
    large = scene(1600, 1200)
    data = encode(large, "MPO", save_all=True, append_images=[large])
    spec = Preprocessing(resize=32, crop_height=32, crop_width=32)
    image = open_image(data, spec)
    assert image.format == "MPO"
    assert reduction(image, spec) == 4
    alone = prepare(encode(large, "JPEG"), spec)
    assert np.abs(prepare(data, spec).astype(int) - alone).max() <= 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_avif_is_decoded(mode: str, subsampling: str) -> None:
    """Within the loss of the compression; the brand may be the general one of images."""
    image = SCENE.convert(mode)
    data = encode(image, "AVIF", quality=100, subsampling=subsampling)
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(prepare(data, EXACT) - expected).mean() < 25
    general = data[:8] + b"mif1" + data[12:]
    assert (prepare(general, EXACT) == prepare(data, EXACT)).all()


def decode(name: str) -> Pixels | ImageError:
    """The result for a file of `NOISY`."""
    try:
        return prepare(NOISY[name], FLAT)
    except ImageError as error:
        return error


NOISY = {
    "TIFF with unknown tags": tiff_file(
        np.zeros((4, 4, 1), np.uint8),
        8,
        tiff_files.BLACK_IS_ZERO,
        compression=tiff_files.DEFLATE,
        more_tags=[(40_000 + i, 3, []) for i in range(500)],
    ),
    "large PNG": png(9500, 9500, 8, 2),
    "damaged TIFF": tiff_file(
        np.zeros((4, 4, 1), np.uint8), 8, tiff_files.BLACK_IS_ZERO, compression=tiff_files.DEFLATE
    )[:-9]
    + bytes(9),
    "MPO without its index": animation("MPO").replace(b"MPF\0", b"MPF\0II*\0\0\0\0\0", 1),
}


@pytest.mark.parametrize("name", NOISY)
def test_nothing_is_printed_about_an_image(name: str) -> None:
    """libtiff writes to the process's stderr, and Pillow warns with a path."""
    code = f"from test_pixel_layouts import decode; decode({name!r})"
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{folder}:{folder.parent}:{folder.parents[1]}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout + done.stderr == ""
