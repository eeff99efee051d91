"""The settings of a quantization, and its result."""

from dataclasses import dataclass

from model_store.manifest import Check, Precision
from model_store.provenance import TopScores
from training.quantization.checks import ALLOWED_CHANGED_IMAGES
from training.quantization.defaults import DEFAULT_CALIBRATION_IMAGES, DEFAULT_MAX_LOSS
from training.quantization.sensitivity import Sensitivity


@dataclass(frozen=True)
class QuantizationSettings:
    """The user's choices.

    Attributes:
        max_loss: Percentage points of top-1 that may be lost. None allows 0.5 points or two
            images, whichever is more.
        sweep: Whether to measure each layer. None measures networks of up to 40 layers.
    """

    precision: Precision = "int8"
    max_loss: float | None = None
    calibration_images: int = DEFAULT_CALIBRATION_IMAGES
    sweep: bool | None = None

    def allowed_loss(self, images: int) -> float:
        """Percentage points of top-1 that may be lost on this number of images."""
        if self.max_loss is not None:
            return self.max_loss
        return max(DEFAULT_MAX_LOSS, 100 * ALLOWED_CHANGED_IMAGES / images)


@dataclass(frozen=True)
class ChangedLabel:
    """A test image with another top-1 than in fp32: its index, and the class before and after."""

    image: int
    before: int
    after: int


@dataclass(frozen=True)
class QuantizedVariant:
    """A converted file with its checks.

    Attributes:
        golden_logits: Logits of each golden image on this machine.
        top1: fp32's and the variant's top-1 on the test split.
        top_scores: Top scores of fp32 on the test split.
        fp32_layers: Layers that were left in fp32.
        sensitivities: Empty if layers were not measured.
        changed: Test images with another top-1 than in fp32.
        changed_golden: Golden images with another top-1, by their paths in the version.
    """

    precision: Precision
    data: bytes
    tolerance: float
    golden_logits: tuple[tuple[float, ...], ...]
    checks: tuple[Check, ...]
    top1: tuple[float, float]
    top_scores: TopScores
    fp32_layers: tuple[str, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()
    changed: tuple[ChangedLabel, ...] = ()
    changed_golden: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed without a waiver."""
        return all(check.passed for check in self.checks)

    def describe_effect(self, test_images: int) -> str:
        """Describe the effect of the conversion on accuracy, size and speed."""
        fp32_top1, top1 = self.top1
        measured = {check.check: check.value for check in self.checks}
        effect = (
            f"test accuracy {top1:.2%} in {self.precision}, {fp32_top1:.2%} in fp32 "
            f"({100 * (top1 - fp32_top1):+.2f} points), {test_images:,} images; "
            f"{measured['size']:.2f} times the size"
        )
        speed = measured.get("speed")
        return effect if speed is None else f"{effect}, {speed:.2f} times the speed here"
