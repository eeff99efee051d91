"""The pixels of each resize mode, square and not, in all eight orientations."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from store_factory import encode, oriented

from model_store.errors import TooManyPixelsError
from model_store.geometry import (
    describe_geometry,
    resize_target,
    resize_value,
    resized_size,
    without_crop,
)
from model_store.image_header import open_image
from model_store.manifest import Letterbox, Manifest, Preprocessing, ResizeMode
from model_store.preprocessing import load_pixels, prepare, reduction, to_pixels
from model_store.store import BUILTIN_ROOT

COLOURS = {
    "R": (255, 0, 0),
    "G": (0, 255, 0),
    "B": (0, 0, 255),
    "W": (255, 255, 255),
    ".": (9, 8, 7),  # the padding
}
STORED = {  # what a file stores of an upright picture; EXIF 2.32, tag 274
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}
MODES: dict[str, dict[str, Any]] = {
    "shorter_side": {},
    "exact": {"resize_mode": "exact"},
    "letterbox": {"resize_mode": "letterbox", "letterbox": Letterbox(padding=COLOURS["."])},
}


def spec(
    mode: str, resize: int | tuple[int, int], crop: tuple[int, int], **more: Any
) -> Preprocessing:
    height, width = crop
    return Preprocessing(resize=resize, crop_height=height, crop_width=width, **MODES[mode], **more)


def paint(rows: str) -> np.ndarray:
    """uint8 `[height, width, 3]` of rows of colour letters, separated by spaces."""
    return np.array([[COLOURS[letter] for letter in row] for row in rows.split()], np.uint8)


WIDE = paint("RRGGBBWW RRGGBBWW RRGGBBWW RRGGBBWW")
CASES = [
    ("shorter_side", 4, (4, 4), "GGBB GGBB GGBB GGBB"),
    ("shorter_side", (4, 8), (4, 8), "RRGGBBWW RRGGBBWW RRGGBBWW RRGGBBWW"),
    ("shorter_side", (2, 8), (2, 8), "RRGGBBWW RRGGBBWW"),
    ("shorter_side", (2, 4), (2, 2), "GB GB"),
    ("shorter_side", (4, 2), (4, 2), "GB GB GB GB"),
    ("exact", 4, (4, 4), "RGBW RGBW RGBW RGBW"),
    ("exact", 99, (4, 4), "RGBW RGBW RGBW RGBW"),
    ("exact", (4, 8), (4, 4), "GGBB GGBB GGBB GGBB"),
    ("exact", (4, 4), (2, 4), "RGBW RGBW"),
    ("exact", (8, 4), (8, 4), "RGBW RGBW RGBW RGBW RGBW RGBW RGBW RGBW"),
    ("letterbox", 4, (4, 4), ".... RGBW RGBW ...."),
    ("letterbox", (4, 10), (4, 10), ".RRGGBBWW. .RRGGBBWW. .RRGGBBWW. .RRGGBBWW."),
    ("letterbox", (3, 4), (3, 4), "RGBW RGBW ...."),
    ("letterbox", (8, 8), (6, 6), "...... RGGBBW RGGBBW RGGBBW RGGBBW ......"),
    ("letterbox", (2, 9), (2, 9), "..RGBW... ..RGBW..."),
]


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("mode", "resize", "crop", "rows"), CASES)
def test_a_striped_image_has_known_pixels(
    mode: str,
    resize: int | tuple[int, int],
    crop: tuple[int, int],
    rows: str,
    orientation: int,
) -> None:
    """The orientation is applied first, so it changes nothing."""
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](WIDE)))
    pixels = prepare(
        encode(stored, "PNG", **oriented(stored, orientation)),
        spec(mode, resize, crop, interpolation="nearest"),
    )
    assert np.array_equal(pixels, paint(rows))


@pytest.mark.parametrize(("mode", "resize", "crop", "rows"), CASES)
def test_height_and_width_are_treated_alike(
    mode: str, resize: int | tuple[int, int], crop: tuple[int, int], rows: str
) -> None:
    """A tall image with the spec turned gives the same pixels, turned."""
    tall = Image.fromarray(np.ascontiguousarray(WIDE.swapaxes(0, 1)))
    target = resize if isinstance(resize, int) else resize[::-1]
    pixels = prepare(encode(tall, "PNG"), spec(mode, target, crop[::-1], interpolation="nearest"))
    assert np.array_equal(pixels, paint(rows).swapaxes(0, 1))


@given(
    mode=st.sampled_from(sorted(MODES)),
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    target=st.tuples(st.integers(1, 400), st.integers(1, 400)),
)
def test_the_resized_image_covers_fits_or_equals_the_target(
    mode: str, size: tuple[int, int], target: tuple[int, int]
) -> None:
    """One side always equals the target, and no side is empty."""
    width, height = resized_size(*size, spec(mode, target, target))
    sides = ((height, target[0]), (width, target[1]))
    assert min(width, height) >= 1
    assert any(side == wanted for side, wanted in sides)
    if mode == "shorter_side":
        assert all(side >= wanted for side, wanted in sides)
    elif mode == "letterbox":
        assert all(side <= wanted for side, wanted in sides)
    else:
        assert all(side == wanted for side, wanted in sides)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(
    ("mode", "target", "fraction"),
    [
        ("shorter_side", (32, 32), 4),
        ("shorter_side", (32, 96), 2),
        ("exact", (32, 32), 4),
        ("exact", (16, 32), 4),
        ("letterbox", (32, 32), 8),
        ("letterbox", (96, 32), 8),
        ("letterbox", (32, 96), 4),
    ],
)
def test_a_reduced_decode_leaves_enough_pixels(
    mode: str, target: tuple[int, int], fraction: int, orientation: int
) -> None:
    """Within 4 grey levels of the full decode, and 0.25 on average, in any orientation."""
    y, x = np.mgrid[0:800, 0:1600]
    waves = [127 + 100 * np.sin(x / a + y / b) for a, b in ((40, 90), (70, 50), (110, 30))]
    upright = np.stack(waves, axis=-1).astype(np.uint8)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    data = encode(stored, "JPEG", quality=90, **oriented(stored, orientation))
    geometry = spec(mode, target, target)
    assert reduction(open_image(data, geometry), geometry) == fraction
    opened = open_image(data, geometry)
    load_pixels(opened)
    difference = np.abs(prepare(data, geometry).astype(int) - to_pixels(opened, geometry))
    assert difference.max() <= 4
    assert difference.mean() <= 0.25


def test_the_pixel_limit_counts_the_upright_image() -> None:
    """Turned by EXIF, this image would be resized to 100 times as many pixels."""
    stored = Image.new("RGB", (100, 10))
    data = encode(stored, "PNG", **oriented(stored, 6))
    narrow = spec("shorter_side", (10, 1000), (10, 1000))
    assert resized_size(100, 10, narrow) == (1000, 100)
    assert resized_size(10, 100, narrow) == (1000, 10000)
    with pytest.raises(TooManyPixelsError, match="10,000,000"):
        open_image(data, narrow, max_pixels=1_000_000)


OLD = {"resize_mode": "exact", "resize": 256, "crop_height": 2, "crop_width": 4}


def test_a_manifest_from_before_the_letterbox_means_the_same_pixels() -> None:
    """A number with `exact` was ignored, and is; the fields are written as they were."""
    old = Preprocessing.model_validate_json(
        json.dumps({**OLD, "interpolation": "nearest", "background": [0, 0, 0]})
    )
    assert resize_target(old) == (2, 4)
    assert np.array_equal(prepare(encode(Image.fromarray(WIDE), "PNG"), old), paint("RGBW RGBW"))
    assert [*json.loads(old.model_dump_json())] == [*OLD, "interpolation", "background"]


@pytest.mark.parametrize("path", sorted(BUILTIN_ROOT.glob("*/*/manifest.json")), ids=str)
def test_built_in_manifests_are_written_as_they_were(path: Any) -> None:
    """Reading and writing `preprocessing` gives the fields of the file."""
    data = path.read_bytes()
    written = json.loads(Manifest.from_bytes(data).to_bytes())
    assert written["preprocessing"] == json.loads(data)["preprocessing"]


@pytest.mark.parametrize(
    "fields",
    [
        {"resize": (8, 8), "crop_height": 9, "crop_width": 8},
        {"resize": (8, 8), "crop_height": 8, "crop_width": 9},
        {"resize_mode": "exact", "resize": (8, 8), "crop_height": 9, "crop_width": 8},
        {"resize": 8, "crop_height": 8, "crop_width": 8, **MODES["letterbox"]}
        | {"letterbox": None},
        {"resize": 8, "crop_height": 8, "crop_width": 8, "letterbox": Letterbox(padding=(0, 0, 0))},
        {"resize": (8,), "crop_height": 8, "crop_width": 8},
        {"resize": (0, 8), "crop_height": 8, "crop_width": 8},
        {"resize_mode": "cover", "resize": 8, "crop_height": 8, "crop_width": 8},
    ],
)
def test_a_geometry_that_contradicts_itself_is_rejected(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Preprocessing(**fields)


@pytest.mark.parametrize(
    ("mode", "target", "crop", "value"),
    [
        ("shorter_side", (8, 8), (4, 6), 8),
        ("shorter_side", (8, 9), (4, 6), (8, 9)),
        ("exact", (4, 6), (4, 6), 6),
        ("exact", (8, 8), (4, 6), (8, 8)),
        ("letterbox", (8, 8), (8, 8), (8, 8)),
    ],
)
def test_a_number_is_written_where_older_versions_understand_it(
    mode: ResizeMode, target: tuple[int, int], crop: tuple[int, int], value: Any
) -> None:
    assert resize_value(mode, target, crop) == value
    assert resize_target(spec(mode, value, crop)) == target


def test_without_crop_only_the_crop_changes() -> None:
    assert without_crop(spec("exact", 99, (4, 6))) == spec("exact", 99, (4, 6))
    assert without_crop(spec("exact", (8, 9), (4, 6))) == spec("exact", (8, 9), (8, 9))
    assert without_crop(spec("shorter_side", 9, (4, 6))) == spec("shorter_side", 9, (9, 9))


def test_every_geometry_has_its_own_description() -> None:
    specs = [spec(mode, resize, crop) for mode, resize, crop, _ in CASES]
    different = {(each.resize_mode, resize_target(each), each.crop_height) for each in specs}
    assert len({describe_geometry(each) for each in specs}) == len(different)
