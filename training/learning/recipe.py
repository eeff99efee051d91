"""A recipe: the values that a training runs by, read from a TOML file; never a branch in the loop."""

import json
import tomllib
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model_store.validation import describe_validation_error
from training.errors import RecipeError

RECIPES: Final = Path(__file__).parent / "recipes"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class RecipeSection(BaseModel):
    """A part of a recipe: immutable, strict, and without room for values that nothing reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Optimizer(RecipeSection):
    """Stochastic gradient descent, v = m v + g and w -= lr v. `layer_decay` < 1 lowers the rate from the head to the stem."""

    learning_rate: Positive
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NotNegative = 5e-4
    decay_norms: bool = False
    """Whether batch norms and biases are decayed too, as He et al. 2015 do."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    clip_norm: NotNegative = 0.0
    """Largest norm of the whole gradient; 0 is no bound."""


class Schedule(RecipeSection):
    """The learning rate over the run, as fractions of it, so that more or fewer epochs keep its shape."""

    decay: Literal["cosine", "linear", "steps"] = "cosine"
    milestones: tuple[Fraction, ...] = ()
    """Where `steps` multiplies the rate by `factor`."""
    factor: Fraction = 0.1
    warmup: Fraction = 0.0
    """Part of the run before the rate is at its height; with cosine, 0.3 makes the one-cycle policy of Smith and Topin 2017."""
    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    """The same in iterations; the longer of the two counts."""
    warmup_start: Share = 0.0
    """The rate at the start, as a part of its height."""
    warmup_shape: Literal["linear", "constant"] = "linear"
    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Parts of the image's side to train on one after the other, each as long: small images are cheap while all is coarse."""

    @model_validator(mode="after")
    def _milestones_ascend(self) -> Self:
        if list(self.milestones) != sorted(self.milestones) or bool(self.milestones) != (
            self.decay == "steps"
        ):
            raise ValueError("milestones ascend, and belong to decay = 'steps' alone")
        return self


class Augmentation(RecipeSection):
    """Bounds of what is done to each training image; 0, or the whole area, switches a part off."""

    flip: Literal["random", "alternate", "none"] = "none"
    """`alternate` mirrors each image every other epoch (Jordan 2024): no side comes twice in a row by chance."""
    pad: Annotated[int, Field(ge=0, le=64)] = 0
    """Pixels added on each side before a window of the model's size is cut out anywhere."""
    fill: Literal["mean", "background", "reflect"] = "mean"
    """What comes in from outside: the mean colour, the preprocessing's background, or the image mirrored."""
    crop_area: tuple[Positive, Positive] = (1.0, 1.0)
    """Area of the window, as a part of the image; above 1 the object becomes smaller."""
    crop_aspect: Annotated[float, Field(ge=1)] = 1.0
    """The window's largest aspect ratio (and, inverted, its smallest)."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    translation: Fraction = 0.0
    shear_degrees: Annotated[float, Field(ge=0, lt=90)] = 0.0
    blur: Share = 0.0
    sharpen: Share = 0.0
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    erase: Share = 0.0
    """Probability that a box of the image is wiped out."""

    @model_validator(mode="after")
    def _pad_or_warp(self) -> Self:
        if self.pad and self.warps:
            raise ValueError(
                "pad goes with flip alone; crop_area and translation do its work where the image is resampled"
            )
        if self.crop_area[0] > self.crop_area[1]:
            raise ValueError("crop_area is [smallest, largest]")
        return self

    @property
    def warps(self) -> bool:
        """Whether images are resampled: dearer than a crop."""
        return self.crop_area != (1.0, 1.0) or any(
            (self.crop_aspect != 1, self.rotation_degrees, self.translation, self.shear_degrees)
        )


class Mixing(RecipeSection):
    """Images mixed in pairs: mixup (Zhang et al. 2017) and cutmix (Yun et al. 2019), alphas of their Beta distributions."""

    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0

    @property
    def enabled(self) -> bool:
        """Whether anything is mixed."""
        return bool(self.mixup or self.cutmix)

    @property
    def cutmix_share(self) -> float:
        """The share of images that are cut instead of blended: half where both are on."""
        return 0.5 if self.mixup and self.cutmix else float(bool(self.cutmix))


class Recipe(RecipeSection):
    """Everything that a training runs by, but the network, the data and the seed."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    iterations: Annotated[int, Field(ge=1)] | None = None
    """The length of the run: one of the two."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Micro-batches that make one batch, where memory is short. Batch norm sees the micro-batch."""
    accuracy_floor: Share = 0.0
    """A gate: below this nothing is published."""
    select: Literal["accuracy", "loss", "last"] = "accuracy"
    """What on validation decides which epoch is published, the other one breaks ties; or simply the last epoch."""
    learn_validation: bool = False
    """Whether the validation split is trained on too: for the last run, when nothing is left to be chosen by it."""
    mirrored: bool = False
    """Whether the published network answers with the mean over an image and its mirror image: twice the work for a point or so."""
    normalization: Literal["scalar", "channels", "pixels"] = "scalar"
    """What is subtracted: one number (and one deviation), one a channel, or a mean image without a deviation (He et al. 2015)."""
    label_smoothing: Fraction = 0.0
    ema_decay: Fraction = 0.0
    """Decay a step of the weights' moving average, which is then what is validated and published; 0 is none."""
    zero_init_residual: bool = False
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs in which only the last layer learns, where a run starts from trained weights."""
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    augmentation: Augmentation = Augmentation()
    mixing: Mixing = Mixing()

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("give epochs or iterations, one of the two")
        if self.learn_validation and self.select != "last":
            raise ValueError(
                'images that are trained on can not choose the epoch: learn_validation goes with select = "last"'
            )
        if self.accumulation * 2 > self.batch_size:
            raise ValueError(
                "a micro-batch needs two images: lower accumulation or raise batch_size"
            )
        if self.normalization == "pixels" and (self.schedule.scales or self.augmentation.warps):
            raise ValueError(
                "a mean image belongs to one size and to images that are not resampled: use scalar or channels"
            )
        return self

    @classmethod
    def load(cls, name: str, changes: Iterable[str] = ()) -> Self:
        """Read `training/learning/recipes/<name>.toml`, or a file of your own where `name` ends in .toml.

        `extends = "NAME"` in a file takes another recipe's values for what it does not say. `changes` are single values,
        `optimizer.learning_rate=0.05`. Raises RecipeError that names the value.
        """
        values = _read(name)
        for change in changes:
            values = _merged(values, _as_change(change))
        try:
            return cls.model_validate_json(json.dumps(values, default=str))
        except ValidationError as error:
            raise RecipeError(
                f"the recipe {name} is not valid: {describe_validation_error(error)}"
            ) from None


def known_recipes() -> dict[str, str]:
    """The recipes that ship with the project, each with the first line of its file: what it is for."""
    paths = sorted(RECIPES.glob("*.toml"), key=attrgetter("stem"))
    return {
        path.stem: path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ") for path in paths
    }


def _read(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if name in seen:
        raise RecipeError(f"the recipe {name} extends itself")
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(known_recipes())
        raise RecipeError(
            f"there is no recipe {name!r}; there are {known}, or give the path of a .toml file"
        ) from None
    except (OSError, ValueError) as error:  # tomllib's and the decoder's errors are ValueErrors
        raise RecipeError(f"{path} is not TOML: {error}") from None
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RecipeError(f"the recipe {name} is wrong at extends: give the name of a recipe")
    return _merged(_read(base, (*seen, name)), values)


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`values` over `base`, table by table; the length of the run is one value with two names."""
    if {"epochs", "iterations"} & set(values):
        base = {key: value for key, value in base.items() if key not in {"epochs", "iterations"}}
    merged = dict(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _as_change(change: str) -> dict[str, Any]:
    """`a.b=1` as the values that it stands for. A word that is no TOML value is taken as text."""
    key, separator, text = change.partition("=")
    if not separator or not key.strip():
        raise RecipeError(
            f"--set takes NAME=VALUE, as in optimizer.learning_rate=0.05; got {change!r}"
        )
    try:
        return tomllib.loads(f"{key.strip()} = {text.strip()}")
    except tomllib.TOMLDecodeError:
        pass
    try:
        return tomllib.loads(f"{key.strip()} = {json.dumps(text.strip())}")
    except tomllib.TOMLDecodeError:
        raise RecipeError(
            f"--set takes NAME=VALUE, as in optimizer.learning_rate=0.05; got {change!r}"
        ) from None
