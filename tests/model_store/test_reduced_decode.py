"""Large JPEGs decoded at a fraction of their size: when, and that nobody sees it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from store_factory import encode

from model_store.image_header import open_image
from model_store.manifest import Interpolation, Preprocessing
from model_store.preprocessing import Pixels, load_pixels, prepare, reduction, to_pixels

CAT = Path(__file__).parents[2] / "docs/images/cat.jpg"


def squared(side: int) -> Preprocessing:
    return Preprocessing(resize=side, crop_height=side, crop_width=side)


def photograph(width: int, height: int) -> Image.Image:
    """A real photograph, enlarged, with grain, and sharp edges over a corner."""
    image = Image.open(CAT).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 1))
    pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    squares = (np.indices((height // 3, width // 3)).sum(axis=0) // 40 % 2 * 255).astype(np.uint8)
    pixels[: height // 3, : width // 3] = squares[..., None]
    return Image.fromarray(pixels)


def in_full(data: bytes, spec: Preprocessing) -> Pixels:
    """As `prepare`, from a JPEG that was decoded as a whole."""
    image = open_image(data, spec)
    load_pixels(image)
    return to_pixels(image, spec)


@pytest.mark.parametrize(
    ("size", "resize", "fraction"),
    [
        ((1600, 1200), 32, 4),
        ((1600, 1200), 100, 2),
        ((1600, 1200), 20, 8),
        ((1601, 1200), 32, 1),
        ((1602, 1202), 32, 2),
    ],
)
def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(
    size: tuple[int, int], resize: int, fraction: int
) -> None:
    """The largest that leaves enough pixels for the resize and that both sides divide by."""
    data = encode(photograph(*size), "JPEG")
    assert reduction(open_image(data, squared(resize)), squared(resize)) == fraction


@pytest.mark.parametrize(
    ("form", "interpolation"),
    [("L", "bilinear"), ("CMYK", "bilinear"), ("L", "bicubic"), ("L", "lanczos")],
)
@pytest.mark.parametrize(
    "options",
    [{"quality": 75}, {"quality": 95, "subsampling": 0}, {"quality": 85, "progressive": True}],
    ids=["75", "95 4:4:4", "progressive"],
)
@pytest.mark.parametrize(
    ("size", "resize"),
    [((1600, 1200), 32), ((1200, 1600), 100), ((1408, 1408), 128), ((2816, 2816), 256)],
)
def test_the_fraction_is_seen_by_nobody(
    size: tuple[int, int],
    resize: int,
    options: dict[str, Any],
    form: str,
    interpolation: Interpolation,
) -> None:
    """Within 4 grey levels of the full decode, and 0.25 on average."""
    data = encode(photograph(*size).convert(form), "JPEG", **options)
    spec = squared(resize).model_copy(update={"interpolation": interpolation})
    assert reduction(open_image(data, spec), spec) > 1
    difference = np.abs(prepare(data, spec).astype(int) - in_full(data, spec))
    assert difference.max() <= 4
    assert difference.mean() <= 0.25


def test_nearest_takes_single_pixels_of_the_whole_image() -> None:
    """A fraction has averaged them."""
    data, spec = (
        encode(photograph(1600, 1200), "JPEG"),
        squared(32).model_copy(update={"interpolation": "nearest"}),
    )
    assert reduction(open_image(data, spec), spec) == 1


def test_the_fraction_keeps_the_orientation() -> None:
    """A camera's picture that was held upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encode(photograph(1600, 1200), "JPEG", exif=exif.tobytes())
    spec = squared(64)
    assert reduction(open_image(data, spec), spec) == 2
    difference = np.abs(prepare(data, spec).astype(int) - in_full(data, spec))
    assert difference.max() <= 4


def test_an_exact_resize_asks_for_enough_of_both_sides() -> None:
    """Squeezed, the shorter side decides against the longer target."""
    spec = Preprocessing(resize_mode="exact", resize=32, crop_height=32, crop_width=64)
    data = encode(photograph(1600, 1200), "JPEG")
    assert reduction(open_image(data, spec), spec) == 2
