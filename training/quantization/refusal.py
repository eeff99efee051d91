"""Explains failed checks of `quantize`: the images, the layers, and what to try next."""

from collections.abc import Iterator
from typing import Final

from training.data.image_set import ImageSet, escape_unprintable
from training.quantization.quantized_variant import QuantizationSettings, QuantizedVariant

SHOWN: Final = 5
"""Images and layers that are named."""
_SPEED_AND_SIZE: Final = frozenset({"speed", "size"})


def describe_refusal(
    quantized: QuantizedVariant, images: ImageSet, settings: QuantizationSettings
) -> Iterator[str]:
    """Yield a sentence for each cause of failed checks; none if nothing failed.

    Args:
        quantized: The variant with its checks.
        images: The images that `quantized.changed` refers to.
        settings: What the user had asked for.
    """
    failed = {check.check for check in quantized.checks if not check.passed and not check.waived}
    if failed - _SPEED_AND_SIZE:
        if quantized.changed:
            yield _name_images(quantized, images)
        if quantized.changed_golden:
            yield f"golden images with another label: {', '.join(quantized.changed_golden)}"
        if quantized.sensitivities:
            yield _name_layers(quantized)
        yield f"to change the variant, try {' or '.join(_remedies(settings, failed))}"
    if failed & _SPEED_AND_SIZE:
        yield (
            f"{quantized.precision} saves too little time or size on this machine; serve fp32, "
            "or convert it on the machine that serves"
        )


def _name_images(quantized: QuantizedVariant, images: ImageSet) -> str:
    shown = [
        f"{escape_unprintable(images.paths[change.image])} ({images.class_names[change.before]} "
        f"became {images.class_names[change.after]})"
        for change in quantized.changed[:SHOWN]
    ]
    return f"test images with another label: {_list(shown, len(quantized.changed))}"


def _name_layers(quantized: QuantizedVariant) -> str:
    shown = [
        f"{entry.layer} ({entry.drift:.2g}{' in fp32' * (entry.layer in quantized.fp32_layers)})"
        for entry in quantized.sensitivities[:SHOWN]
    ]
    return (
        "layers with the largest change of the logits, if only they are quantized: "
        f"{_list(shown, len(quantized.sensitivities))}"
    )


def _list(shown: list[str], count: int) -> str:
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


def _remedies(settings: QuantizationSettings, failed: set[str]) -> Iterator[str]:
    if settings.precision == "int8":
        yield f"--calibration-images {2 * settings.calibration_images}"
        if not settings.sweep:
            yield "--sweep, which leaves the worst layers in fp32"
        yield "--precision fp16, for GPUs"
    else:
        yield "--precision int8, for CPUs"
    if "top1_loss" in failed:
        yield "a larger --max-loss"
