"""Input presets of common families of networks: pixel range, resize and crop."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, get_args

from pydantic import ValidationError

from model_store.geometry import resize_value
from model_store.manifest import Colour, Interpolation, Letterbox, Preprocessing, ResizeMode
from model_store.validation import describe_validation_error
from training.errors import ForeignModelError
from training.importing.input_spec import PixelRange, Triple
from training.learning.normalization import IMAGENET_MEAN, IMAGENET_STD

BLACK: Final = (0, 0, 0)
_ONES: Final = (1.0, 1.0, 1.0)
CLASSIC_CROP: Final = 224 / 256
"""The share of the shorter side that the crop keeps (He et al. 2015, section 3.4)."""


@dataclass(frozen=True)
class Geometry:
    """How an image is resized.

    The image is resized towards the input's size divided by `crop_share`, and then cropped.
    """

    crop_share: float = 1.0
    mode: ResizeMode = "exact"
    interpolation: Interpolation = "bilinear"
    padding: Colour = BLACK

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the crop, for an input of this size in pixels."""
        return int(height / self.crop_share + 1e-6), int(width / self.crop_share + 1e-6)

    def at(self, height: int, width: int, target: tuple[int, int] | None = None) -> Preprocessing:
        """The preprocessing for an input of this size in pixels.

        Raises:
            ForeignModelError: The crop does not fit into `target`.
        """
        crop = (height, width)
        target = target or self.target(height, width)
        try:
            return Preprocessing(
                resize_mode=self.mode,
                resize=resize_value(self.mode, target, crop),
                crop_height=height,
                crop_width=width,
                interpolation=self.interpolation,
                letterbox=Letterbox(padding=self.padding) if self.mode == "letterbox" else None,
            )
        except ValidationError as error:
            reason = describe_validation_error(error)
            raise ForeignModelError(
                f"the resize is not valid: {reason}; change --resize, --resize-mode or --size"
            ) from None


@dataclass(frozen=True)
class Preset:
    """A named input spec.

    `size` is (height, width) if the preset states one. `states_geometry` is False if networks of
    this family are resized in different ways.
    """

    range: PixelRange
    geometry: Geometry
    states_geometry: bool
    size: tuple[int, int] | None = None


def triple(values: Any) -> Triple:
    """Three numbers, one per channel. Raises ValueError or TypeError for anything else."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _from_grey(levels: Triple) -> Triple:
    return triple(level / 255 for level in levels)


PRESETS: Final = MappingProxyType(
    {
        "torchvision": Preset(
            PixelRange("RGB", 1 / 255, _from_grey(IMAGENET_MEAN), _from_grey(IMAGENET_STD)),
            Geometry(CLASSIC_CROP, "shorter_side"),
            states_geometry=True,
        ),
        "caffe": Preset(
            PixelRange("BGR", 1.0, (103.939, 116.779, 123.68), _ONES),
            Geometry(CLASSIC_CROP, "shorter_side"),
            states_geometry=False,
        ),
        "tf": Preset(
            PixelRange("RGB", 1 / 127.5, _ONES, _ONES),
            Geometry(0.875, "shorter_side"),
            states_geometry=False,
        ),
        "zero-one": Preset(PixelRange("RGB", 1 / 255), Geometry(), states_geometry=False),
        "minus-one-one": Preset(
            PixelRange("RGB", 1 / 127.5, _ONES, _ONES), Geometry(), states_geometry=False
        ),
    }
)


TIMM_MODES: Final[Mapping[str, ResizeMode]] = MappingProxyType(
    {"center": "shorter_side", "squash": "exact", "border": "letterbox"}
)


def read_timm(path: Path) -> Preset:
    """Read a timm config: a hub's `config.json`, or its `pretrained_cfg` alone.

    Raises ForeignModelError if the file is not a timm config, or asks for a preprocessing that
    `model_store.preprocessing.prepare` does not support.
    """
    config = _read_object(path)
    values = config.get("pretrained_cfg", config)
    try:
        channels, height, width = (int(size) for size in values["input_size"])
        mean, std = (triple(values[name]) for name in ("mean", "std"))
        interpolation = values.get("interpolation", "bicubic")
        share = float(values.get("crop_pct") or 0.875)
        mode = TIMM_MODES[values.get("crop_mode") or "center"]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ForeignModelError(
            f"{path} is not a timm config: expected input_size, mean and std, and optionally "
            f"interpolation, crop_pct and crop_mode ({', '.join(TIMM_MODES)}), got {error!r}"
        ) from None
    if channels != 3 or interpolation not in get_args(Interpolation) or not 0 < share <= 1:
        raise ForeignModelError(
            f"{path}: expected 3 channels, one of {', '.join(get_args(Interpolation))}, and a "
            f"crop_pct up to 1, got input_size {values['input_size']}, interpolation "
            f"{interpolation} and crop_pct {share:g}"
        )
    red, green, blue = (round(255 * level) for level in mean)
    return Preset(
        PixelRange("RGB", 1 / 255, mean, std),
        Geometry(share, mode, interpolation, (red, green, blue)),
        states_geometry=True,
        size=(height, width),
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ForeignModelError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ForeignModelError(f"{path} is not a timm config: expected a JSON object")
    return values
