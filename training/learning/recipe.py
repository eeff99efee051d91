"""Recipes: the values that a training runs with. `recipe_file` reads them.

Every field has a docstring, which pydantic copies into the field's `description`: the reference
page of recipes is generated from `Recipe.model_json_schema()`.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PrecisionChoice = Literal["auto", "fp32", "bf16"]
CompileChoice = Literal["auto", "on", "off"]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class RecipeSection(BaseModel):
    """A table of a recipe: immutable and strict; unknown fields are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class Optimizer(RecipeSection):
    """Stochastic gradient descent with momentum."""

    learning_rate: Positive
    """Peak learning rate. The schedule multiplies it by a factor between 0 and 1."""
    momentum: FractionBelowOne = 0.9
    """Momentum `m` of the update `v = m v + g; w = w - lr v`."""
    nesterov: bool = True
    """Use Nesterov momentum."""
    weight_decay: NonNegative = 5e-4
    """L2 penalty that is added to the gradient of the weights."""
    decay_norms: bool = False
    """Apply weight decay to batch norms and biases too, as He et al. 2015 do."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor between the learning rates of neighbouring stages. Below 1, early stages learn slower
    than the last layer."""
    clip_norm: NonNegative = 0.0
    """Largest L2 norm of the whole gradient; 0 disables clipping."""


class Schedule(RecipeSection):
    """Learning rate and image size over the run.

    Positions are fractions of the run, so that the shape does not depend on the number of epochs.
    """

    decay: Literal["cosine", "linear", "steps"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    milestones: tuple[FractionBelowOne, ...] = ()
    """Positions at which `decay = "steps"` multiplies the learning rate by `factor`."""
    factor: FractionBelowOne = 0.1
    """Factor that is applied at each milestone."""
    warmup: FractionBelowOne = 0.0
    """Length of the warm-up. With cosine decay, 0.3 is the one-cycle policy of Smith and Topin
    2017."""
    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    """Length of the warm-up in iterations. The longer of `warmup` and `warmup_iterations` is
    used."""
    warmup_start: Fraction = 0.0
    """Learning rate at the first step, as a fraction of the peak."""
    warmup_shape: Literal["linear", "constant"] = "linear"
    """`linear` rises to the peak; `constant` stays at `warmup_start` until the warm-up ends."""
    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Fractions of the image side to train at, one after the other, each for an equal part of the
    run. Small images make the first epochs cheaper."""

    @model_validator(mode="after")
    def _check_milestones(self) -> Self:
        if list(self.milestones) != sorted(self.milestones) or bool(self.milestones) != (
            self.decay == "steps"
        ):
            raise ValueError(
                'milestones must be ascending, and are used with decay = "steps" and only there'
            )
        return self


class Augmentation(RecipeSection):
    """Random changes of each training image. The defaults change nothing."""

    flip: Literal["random", "alternate", "none"] = "none"
    """Mirror images left to right: half of them at random, or each image in every other epoch
    (`alternate`, Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3.6)."""
    pad: Annotated[int, Field(ge=0, le=64)] = 0
    """Pixels added on each side before a random window of the model's size is cut out."""
    fill: Literal["mean", "background", "reflect"] = "mean"
    """Content outside the image: the mean color, the color that the preprocessing paints there (its
    padding or background), or the reflected image."""
    crop_area: tuple[Positive, Positive] = (1.0, 1.0)
    """Smallest and largest area of the window, as a fraction of the image. Above 1 the image
    shrinks."""
    crop_aspect: Annotated[float, Field(ge=1)] = 1.0
    """Largest aspect ratio of the window, relative to the image's; the smallest is its inverse."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation to either side."""
    translation: FractionBelowOne = 0.0
    """Largest shift along each axis, as a fraction of the image side."""
    shear_degrees: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Largest shear along each axis."""
    blur: Fraction = 0.0
    """Largest weight of the image's 3x3 mean that is blended in."""
    sharpen: Fraction = 0.0
    """Largest weight of the image's 3x3 mean that is subtracted."""
    brightness: Fraction = 0.0
    """Largest change of brightness, in standard deviations of the normalized pixels."""
    contrast: Fraction = 0.0
    """Largest relative change of the distance of each pixel to the image's mean."""
    saturation: Fraction = 0.0
    """Largest relative change of the distance of each pixel to its gray value."""
    erase: Fraction = 0.0
    """Probability that a random box of the image is set to the mean color (Zhong et al. 2017,
    "Random Erasing Data Augmentation")."""

    @model_validator(mode="after")
    def _check_geometry(self) -> Self:
        if self.pad and self.is_resampling:
            raise ValueError(
                "pad cannot be combined with crop_area, crop_aspect, rotation_degrees, "
                "translation or shear_degrees; use crop_area and translation instead"
            )
        if self.crop_area[0] > self.crop_area[1]:
            raise ValueError("crop_area must be [smallest, largest]")
        return self

    @property
    def is_resampling(self) -> bool:
        """Whether images are resampled by an affine map, which costs more than a crop."""
        return self.crop_area != (1.0, 1.0) or any(
            (self.crop_aspect != 1, self.rotation_degrees, self.translation, self.shear_degrees)
        )


class Mixing(RecipeSection):
    """Images blended in pairs, labels blended alike."""

    mixup: NonNegative = 0.0
    """Alpha of the Beta distribution of mixup weights (Zhang et al. 2017); 0 disables mixup."""
    cutmix: NonNegative = 0.0
    """Alpha of the Beta distribution of cutmix areas (Yun et al. 2019); 0 disables cutmix."""

    @property
    def enabled(self) -> bool:
        return bool(self.mixup or self.cutmix)

    @property
    def cutmix_probability(self) -> float:
        """Probability that an image gets cutmix instead of mixup: one half if both are enabled."""
        return 0.5 if self.mixup and self.cutmix else float(bool(self.cutmix))


class Recipe(RecipeSection):
    """Everything that a training depends on except the network, the data and the seed."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Length of the run in epochs. Set either `epochs` or `iterations`."""
    iterations: Annotated[int, Field(ge=1)] | None = None
    """Length of the run in optimizer steps."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images per optimizer step, over all processes."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Micro-batches per batch, to save memory. Batch norm sees one micro-batch at a time."""
    accuracy_floor: Fraction = 0.0
    """Smallest test accuracy that passes the publication gate."""
    select: Literal["accuracy", "loss", "last"] = "accuracy"
    """Validation metric that selects the published epoch (the other one breaks ties), or the last
    epoch."""
    learn_validation: bool = False
    """Train on the validation split too. For a final run, after all choices are made; requires
    `select = "last"`."""
    mirrored: bool = False
    """Publish a network that averages over each image and its mirror image. Inference costs twice
    as much."""
    normalization: Literal["scalar", "channels", "pixels"] = "scalar"
    """Statistics that normalize pixels: one mean and deviation, one pair per channel, or a mean
    image without a deviation (He et al. 2015, section 4.2)."""
    label_smoothing: FractionBelowOne = 0.0
    """Probability that is taken from the label and spread over all classes (Szegedy et al. 2016,
    section 7)."""
    ema_decay: FractionBelowOne = 0.0
    """Decay per step of the moving average of the weights, which is validated and published. 0
    disables averaging."""
    zero_init_residual: bool = False
    """Start every residual branch at zero (Goyal et al. 2017, section 5.1)."""
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    """First epochs in which only the last layer learns, when a run starts from trained weights."""
    optimizer: Optimizer
    """Optimizer settings."""
    schedule: Schedule = Schedule()
    """Learning rate and image size over the run."""
    augmentation: Augmentation = Augmentation()
    """Random changes of each training image."""
    mixing: Mixing = Mixing()
    """Images blended in pairs."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("set either epochs or iterations")
        if self.learn_validation and self.select != "last":
            raise ValueError(
                'learn_validation requires select = "last": '
                "images that are trained on cannot select an epoch"
            )
        if self.accumulation * 2 > self.batch_size:
            raise ValueError(
                "a micro-batch needs at least two images: lower accumulation or raise batch_size"
            )
        if self.normalization == "pixels" and (
            self.schedule.scales or self.augmentation.is_resampling
        ):
            raise ValueError(
                'normalization = "pixels" works for one image size without resampling; '
                'use "scalar" or "channels"'
            )
        return self
