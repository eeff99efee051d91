"""What `quantize` says when a check fails."""

import pytest

from model_store.manifest import Check
from model_store.provenance import TopScores
from training.data.image_set import ImageSet
from training.data.sources import load_data
from training.quantization.quantized_variant import (
    ChangedLabel,
    QuantizationSettings,
    QuantizedVariant,
)
from training.quantization.refusal import SHOWN, describe_refusal
from training.quantization.sensitivity import Sensitivity

TOP = TopScores(mean=0.8, percentiles={"5": 0.5, "50": 0.9, "95": 1.0})
LAYERS = tuple(Sensitivity(f"layer{number}", 0.5 / number) for number in range(1, 9))


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_data("digits")


def refused(*names: str, waived: str | None = None) -> QuantizedVariant:
    checks = tuple(
        Check(check=name, passed=False, value=2, threshold=1, comparison="at_most", waived=waived)
        for name in names
    )
    changed = tuple(ChangedLabel(image, 3, 8) for image in range(10, 10 + SHOWN + 2))
    golden = ("golden/seven.png",)
    return QuantizedVariant(
        "int8", b"", 1.0, (), checks, (1, 0.9), TOP, ("layer1",), LAYERS, changed, golden
    )


def test_images_and_layers_are_named_with_what_to_try(digits: ImageSet) -> None:
    settings = QuantizationSettings(calibration_images=100)
    images, golden, layers, advice = describe_refusal(refused("top1_loss"), digits, settings)
    assert f"{digits.paths[10]} (3 became 8)" in images
    assert "and 2 more" in images
    assert "golden/seven.png" in golden
    assert "layer1 (0.5 in fp32), layer2 (0.25), " in layers
    assert "and 3 more" in layers
    for option in ("--calibration-images 200", "--sweep", "--precision fp16", "--max-loss"):
        assert option in advice


def test_only_what_applies_is_advised(digits: ImageSet) -> None:
    settings = QuantizationSettings(sweep=True)
    *_, advice = describe_refusal(refused("logit_drift"), digits, settings)
    assert "--sweep" not in advice
    assert "--max-loss" not in advice
    *_, advice = describe_refusal(refused("logit_drift"), digits, QuantizationSettings("fp16"))
    assert "--precision int8" in advice
    assert "--calibration-images" not in advice


@pytest.mark.parametrize("name", ["speed", "size"])
def test_images_and_layers_do_not_explain_speed_and_size(digits: ImageSet, name: str) -> None:
    assert len(list(describe_refusal(refused(name), digits, QuantizationSettings()))) == 1


def test_without_a_failed_check_nothing_is_said(digits: ImageSet) -> None:
    waived = refused("top1_loss", "speed", waived="a test")
    assert list(describe_refusal(waived, digits, QuantizationSettings())) == []
    assert list(describe_refusal(refused(), digits, QuantizationSettings())) == []
