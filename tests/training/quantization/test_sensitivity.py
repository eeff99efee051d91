"""The sweep finds the most sensitive layer, and as few layers as possible stay in fp32."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from graphs import images, two_layers
from onnx import numpy_helper

from model_store.manifest import Input, Manifest, Outputs, Preprocessing, Variant, now
from training.quantization.int8 import calibrate
from training.quantization.scoring import open_scorer, score
from training.quantization.sensitivity import choose_fp32_layers, relative_drift, sweep

MANIFEST = Manifest(
    model="m",
    created_at=now(),
    files=({"path": "model.onnx", "size": 1, "sha256": "0" * 64},),  # type: ignore[arg-type]
    input=Input(height=8, width=8),
    outputs=Outputs(),
    preprocessing=Preprocessing(resize=8, crop_height=8, crop_width=8),
    class_names=("a", "b", "c"),
    max_batch_size=8,
    variants=(Variant(precision="fp32", file="model.onnx", tolerance=1e-3),),
    proof="unproven",
)


def with_an_outlier(data: bytes) -> bytes:
    """The graph with one weight so large that the others of its filter round to 0."""
    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        if tensor.name == "conv.weight":
            weight = numpy_helper.to_array(tensor).copy()
            weight[:, 0, 0, 0] = 200
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return model.SerializeToString()


def test_the_layer_with_an_outlier_is_first() -> None:
    pixels = images(32)
    pixels[..., 0] = 128  # the zero point, so that the outlier itself adds nothing
    data = with_an_outlier(two_layers([1 / 64] * 3, [-2.0] * 3))
    calls: list[tuple[int, int]] = []
    with open_scorer(MANIFEST) as scorer:
        expected = score(scorer.open(data), [pixels])
        sensitivities = sweep(
            calibrate(data, [pixels]),
            pixels,
            expected,
            scorer,
            lambda done, total: calls.append((done, total)),
        )
    assert [entry.layer for entry in sensitivities] == ["conv.weight", "fc.weight"]
    assert sensitivities[0].drift > 10 * sensitivities[1].drift > 0
    assert calls == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("needed", "expected"), [(0, ()), (2, ("a", "b")), (9, ("a", "b", "c"))])
def test_the_fewest_layers_stay_in_fp32(needed: int, expected: tuple[str, ...]) -> None:
    """One more layer at a time until it is acceptable, and at most a quarter of them."""
    tried: list[tuple[str, ...]] = []

    def is_acceptable(layers: Sequence[str]) -> bool:
        tried.append(tuple(layers))
        return len(layers) >= needed

    assert choose_fp32_layers(is_acceptable, lambda: list("abcdefghijkl")) == expected
    assert tried[0] == ()


def test_layers_are_not_ranked_if_all_may_be_quantized() -> None:
    """A sweep takes minutes on a large network."""

    def never() -> Sequence[str]:
        raise AssertionError

    assert choose_fp32_layers(lambda _: True, never) == ()


def test_drift_is_in_standard_deviations() -> None:
    """The scale of the logits does not matter."""
    logits = np.array([[1.0, -1.0], [1.0, -1.0]], np.float32)
    assert relative_drift(logits + 0.5, logits) == relative_drift(2 * logits + 1, 2 * logits) == 0.5
