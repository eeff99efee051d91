"""Input presets, and timm configs."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.errors import ForeignModelError
from training.importing.preset_names import PRESET_NAMES, TIMM
from training.importing.presets import PRESETS, Geometry, read_timm

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


def test_the_names_in_the_help_are_those_of_the_presets() -> None:
    """They are listed apart, so that `--help` imports no torch."""
    assert (*PRESETS, TIMM) == PRESET_NAMES


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


@pytest.mark.parametrize(
    ("changes", "mode", "resize"),
    [
        ({}, "shorter_side", (256, 329)),
        ({"crop_mode": "center", "crop_pct": 1.0}, "shorter_side", (224, 288)),
        ({"crop_mode": "squash", "crop_pct": 1.0}, "exact", 288),
        ({"crop_mode": "squash"}, "exact", (256, 329)),
        ({"crop_mode": "border", "mean": [1.0, 0.5, 0.1]}, "letterbox", (256, 329)),
    ],
)
def test_crop_modes_become_resize_modes(
    tmp_path: Path, changes: dict[str, Any], mode: str, resize: int | tuple[int, int]
) -> None:
    """For sizes that are not square too. A border has the mean colour, as in timm."""
    preset = read_timm(config(tmp_path, **changes))
    preprocessing = preset.geometry.at(224, 288)
    assert (preprocessing.resize_mode, preprocessing.resize) == (mode, resize)
    assert (preprocessing.crop_height, preprocessing.crop_width) == (224, 288)
    padding = preprocessing.letterbox and preprocessing.letterbox.padding
    assert padding == ((255, 128, 26) if mode == "letterbox" else None)


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
        ({"crop_mode": "stretch"}, "crop_mode"),
        ({"crop_mode": ["center"]}, "crop_mode"),
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
        Geometry(mode="shorter_side").at(224, 224, (200, 224))
