"""Input presets, and timm configs."""

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
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, **changes}))
    return path


def test_torchvisions_crop_is_7_8_of_the_shorter_side() -> None:
    """224 pixels are cropped from 256, and other sizes in proportion."""
    geometry = PRESETS["torchvision"].geometry
    assert [geometry.at(side, side).resize for side in (224, 32, 299)] == [256, 36, 341]


def test_a_timm_config_may_be_nested(tmp_path: Path) -> None:
    """A hub's config.json has it under pretrained_cfg."""
    preset = read_timm(config(tmp_path))
    assert preset.size == (224, 288)
    assert preset.geometry.at(224, 224).resize == 256
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet50", "pretrained_cfg": CONFIG})
    )
    assert read_timm(tmp_path / "config.json") == preset


def test_crop_mode_squash_is_an_exact_resize(tmp_path: Path) -> None:
    """Without a crop, and without the aspect ratio."""
    assert (
        read_timm(config(tmp_path, crop_mode="squash", crop_pct=1.0))
        .geometry.at(224, 224)
        .resize_mode
        == "exact"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [0.5]}, "not a timm config"),
        ({"mean": None}, "not a timm config"),
        ({"input_size": [224, 224]}, "not a timm config"),
        ({"input_size": [3, float("inf"), 224]}, "not a timm config"),
        ({"crop_pct": 10**400}, "not a timm config"),
        ({"input_size": [1, 224, 224]}, "crop_pct"),
        ({"interpolation": ["bicubic"]}, "crop_pct"),
        ({"interpolation": "random"}, "crop_pct"),
        ({"crop_pct": 1.2}, "crop_pct"),
        ({"crop_mode": "border"}, "crop_mode border"),
        ({"crop_mode": "squash"}, "crop_mode squash"),
    ],
)
def test_an_unsupported_config_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ForeignModelError, match=message):
        read_timm(config(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "words", "[1, 2]", "[" * 100_000])
def test_a_file_that_is_not_a_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ForeignModelError, match=r"config\.json"):
        read_timm(tmp_path / "config.json")


def test_a_crop_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ForeignModelError, match="200"):
        make_preprocessing("shorter_side", 200, 224, 224, "bilinear")
