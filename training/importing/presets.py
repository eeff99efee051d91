"""What named families of networks expect: the range of their pixels, and how they resize and crop."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from pydantic import ValidationError

from model_store.manifest import Interpolation, Preprocessing
from model_store.validation import describe_validation_error
from training.errors import ForeignModelError
from training.importing.input_spec import PixelRange

TIMM: Final = "timm"
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_ONES: Final = (1.0, 1.0, 1.0)
CLASSIC_CROP: Final = 224 / 256
"""The share of the shorter side that ImageNet's networks were measured with (He et al. 2015, section 3.4)."""


@dataclass(frozen=True)
class Geometry:
    """How an image becomes the input's size: `crop_share` of the shorter side, or squeezed to it (`exact`)."""

    crop_share: float = 1.0
    mode: Literal["shorter_side", "exact"] = "exact"
    interpolation: Interpolation = "bilinear"

    def at(self, height: int, width: int) -> Preprocessing:
        """The preprocessing for an input of this size."""
        side = max(height, width)
        resize = side if self.mode == "exact" else int(side / self.crop_share + 1e-6)
        return make_preprocessing(self.mode, resize, height, width, self.interpolation)


@dataclass(frozen=True)
class Preset:
    """A named expectation. `size` where it names one; `says_geometry` is false where the resize is only a habit."""

    range: PixelRange
    geometry: Geometry
    says_geometry: bool
    size: tuple[int, int] | None = None


PRESETS: Final = MappingProxyType(
    {
        "torchvision": Preset(
            PixelRange("RGB", 1 / 255, IMAGENET_MEAN, IMAGENET_STD),
            Geometry(CLASSIC_CROP, "shorter_side"),
            says_geometry=True,
        ),
        "caffe": Preset(
            PixelRange("BGR", 1.0, (103.939, 116.779, 123.68), _ONES),
            Geometry(CLASSIC_CROP, "shorter_side"),
            says_geometry=False,
        ),
        "tf": Preset(
            PixelRange("RGB", 1 / 127.5, _ONES, _ONES),
            Geometry(0.875, "shorter_side"),
            says_geometry=False,
        ),
        "zero-one": Preset(PixelRange("RGB", 1 / 255), Geometry(), says_geometry=False),
        "minus-one-one": Preset(
            PixelRange("RGB", 1 / 127.5, _ONES, _ONES), Geometry(), says_geometry=False
        ),
    }
)
NAMES: Final = (*PRESETS, TIMM)


def make_preprocessing(
    mode: Literal["shorter_side", "exact"],
    resize: int,
    height: int,
    width: int,
    interpolation: Interpolation,
) -> Preprocessing:
    """The block of the manifest. Raises ForeignModelError where a crop does not fit."""
    try:
        return Preprocessing(
            resize_mode=mode,
            resize=resize,
            crop_height=height,
            crop_width=width,
            interpolation=interpolation,
        )
    except ValidationError as error:
        raise ForeignModelError(
            f"this resize is not possible: {describe_validation_error(error)}"
        ) from None


def read_timm(path: Path) -> Preset:
    """The expectation in a timm config: the `config.json` beside weights on a hub, or its `pretrained_cfg` alone.

    Raises ForeignModelError where it is no such config, or asks for what `prepare` does not do.
    """
    config = _read_object(path)
    values = config.get("pretrained_cfg", config)
    try:
        if values.get("crop_mode", "center") == "border":
            raise ForeignModelError(
                f"{path}: crop_mode border pads images, which is not done here; give --resize-mode exact instead"
            )
        channels, height, width = (int(size) for size in values["input_size"])
        mean, std = (triple(values[name]) for name in ("mean", "std"))
        interpolation = values.get("interpolation", "bicubic")
        share = float(values.get("crop_pct") or 0.875)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ForeignModelError(
            f"{path} is no timm config: expected input_size, mean, std, and mostly interpolation and crop_pct; {error!r}"
        ) from None
    if values.get("crop_mode") == "squash" and share < 1:
        raise ForeignModelError(
            f"{path}: crop_mode squash with crop_pct {share:g} squeezes and crops; only one of both is done here"
        )
    if channels != 3 or interpolation not in get_args(Interpolation) or not 0 < share <= 1:
        raise ForeignModelError(
            f"{path}: input_size {values['input_size']}, interpolation {interpolation} and crop_pct {share:g} are not all possible "
            "here: 3 channels, bilinear, bicubic, nearest or lanczos, and a share up to 1 are"
        )
    mode: Literal["shorter_side", "exact"] = (
        "exact" if values.get("crop_mode") == "squash" else "shorter_side"
    )
    return Preset(
        PixelRange("RGB", 1 / 255, mean, std),
        Geometry(share, mode, interpolation),
        says_geometry=True,
        size=(height, width),
    )


def triple(values: Any) -> tuple[float, float, float]:
    """Three numbers, a channel each. Raises ValueError, TypeError for anything else."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ForeignModelError(f"{path} can not be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ForeignModelError(f"{path} is no timm config: expected a JSON object")
    return values
