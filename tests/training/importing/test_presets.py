"""Presets say what families of networks expect; a timm config is read as timm means it, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.errors import ForeignModelError
from training.importing.presets import PRESETS, make_preprocessing, read_timm

CONFIG = {
    "input_size": [3, 224, 288],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


def config(folder: Path, **changes: Any) -> Path:
    """A config file with these changes."""
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, **changes}))
    return path


def test_torchvisions_geometry_is_its_own() -> None:
    """224 is cut from 256, and other sizes in proportion."""
    geometry = PRESETS["torchvision"].geometry
    assert [geometry.at(side, side).resize for side in (224, 32, 299)] == [256, 36, 341]


def test_a_timm_config_at_the_top_or_below_is_the_same(tmp_path: Path) -> None:
    """The file of a hub has it under pretrained_cfg."""
    preset = read_timm(config(tmp_path))
    assert preset.size == (224, 288)
    assert preset.geometry.at(224, 224).resize == 256
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet50", "pretrained_cfg": CONFIG})
    )
    assert read_timm(tmp_path / "config.json") == preset


def test_timms_squash_is_exact(tmp_path: Path) -> None:
    """No crop, and the aspect is not kept."""
    assert (
        read_timm(config(tmp_path, crop_mode="squash", crop_pct=1.0))
        .geometry.at(224, 224)
        .resize_mode
        == "exact"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [0.5]}, "is no timm config"),
        ({"mean": None}, "is no timm config"),
        ({"input_size": [224, 224]}, "is no timm config"),
        ({"input_size": [3, float("inf"), 224]}, "is no timm config"),
        ({"crop_pct": 10**400}, "is no timm config"),
        ({"input_size": [1, 224, 224]}, "not all possible"),
        ({"interpolation": ["bicubic"]}, "not all possible"),
        ({"interpolation": "random"}, "not all possible"),
        ({"crop_pct": 1.2}, "not all possible"),
        ({"crop_mode": "border"}, "crop_mode border pads"),
        ({"crop_mode": "squash"}, "squeezes and crops"),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Rather than served with another geometry."""
    with pytest.raises(ForeignModelError, match=message):
        read_timm(config(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "words", "[1, 2]", "[" * 100_000])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    """Not JSON, or no object."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ForeignModelError, match=r"can not be read as JSON|is no timm config"):
        read_timm(tmp_path / "config.json")


def test_a_crop_that_does_not_fit_is_refused() -> None:
    """With the manifest's own words."""
    with pytest.raises(ForeignModelError, match="does not fit in an image resized to 200"):
        make_preprocessing("shorter_side", 200, 224, 224, "bilinear")
