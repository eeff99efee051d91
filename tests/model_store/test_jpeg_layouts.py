"""JPEG, MPO and AVIF: ends, processes that are not decoded, and variants."""

import numpy as np
import pytest
from PIL import Image
from store_factory import encode, scene

from model_store.errors import ImageCorruptError, ImageTruncatedError, ImageUnsupportedError
from model_store.image_header import open_image
from model_store.jpeg_markers import END, count_scans
from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare, reduction

HEIGHT, WIDTH = 17, 20
EXACT = Preprocessing(resize_mode="exact", resize=4, crop_height=HEIGHT, crop_width=WIDTH)
FLAT = Preprocessing(resize_mode="exact", resize=4, crop_height=4, crop_width=4)
SCENE = scene(WIDTH, HEIGHT)
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


def test_a_cut_at_any_restart_marker_is_noticed() -> None:
    """Their eight numbers repeat, so the missing rows may begin with any of them."""
    pixels = np.random.default_rng(0).integers(0, 256, (8 * 20, 8, 3), np.uint8)
    data = encode(Image.fromarray(pixels).convert("L"), "JPEG", restart_marker_rows=1)
    spec = Preprocessing(resize_mode="exact", resize=8, crop_height=160, crop_width=8)
    prepare(data[:-2], spec)
    restarts = [i for i in range(len(data)) if data[i] == 0xFF and 0xD0 <= data[i + 1] <= 0xD7]
    assert len(restarts) == 19
    for position in restarts:
        for cut in (data[:position], data[: position + 2]):
            with pytest.raises((ImageTruncatedError, ImageCorruptError)):
                prepare(cut, spec)


@pytest.mark.parametrize("rows", range(2, 10))
def test_a_missing_last_row_is_noticed_behind_any_restart_marker(rows: int) -> None:
    """The decoder fills it in silently if the data behind it starts with the wrong marker."""
    pixels = np.random.default_rng(0).integers(0, 256, (8 * rows, 8, 3), np.uint8)
    data = encode(Image.fromarray(pixels).convert("L"), "JPEG", restart_marker_rows=1)
    spec = Preprocessing(resize_mode="exact", resize=8, crop_height=8 * rows, crop_width=8)
    marker = data.rindex(bytes([0xFF, 0xD0 + (rows - 2) % 8]))
    for cut in (data[:marker], data[: marker + 2]):
        with pytest.raises((ImageTruncatedError, ImageCorruptError)):
            prepare(cut, spec)


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
