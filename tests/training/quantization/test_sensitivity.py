"""The sweep finds the layer that hurts, and as few as possible stay in fp32."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from graphs import images, two_layers
from onnx import numpy_helper

from model_store.manifest import Input, Manifest, Outputs, Preprocessing, Variant, now
from training.quantization.int8 import calibrate
from training.quantization.scoring import score, scorer
from training.quantization.sensitivity import layers_to_keep, relative_drift, sweep

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
    """The same graph with one input channel's weight so large that the others of its filters round to nothing."""
    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        if tensor.name == "conv.weight":
            weight = numpy_helper.to_array(tensor).copy()
            weight[:, 0, 0, 0] = 200
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return model.SerializeToString()


def test_the_layer_with_an_outlier_comes_first() -> None:
    """Each layer is tried alone, so the table names the one that an owner should look at."""
    pixels = images(32)
    pixels[..., 0] = 128  # what the outlier is multiplied with is nothing but the zero point
    data = with_an_outlier(two_layers([1 / 64] * 3, [-2.0] * 3))
    heard: list[tuple[int, int]] = []
    with scorer(MANIFEST) as scoring:
        expected = score(scoring.open(data), [pixels])
        found = sweep(
            calibrate(data, [pixels]),
            pixels,
            expected,
            scoring,
            lambda done, of: heard.append((done, of)),
        )
    assert [line.layer for line in found] == ["conv.weight", "fc.weight"]
    assert found[0].drift > 10 * found[1].drift > 0
    assert heard == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("needed", "expected"), [(0, ()), (2, ("a", "b")), (9, ("a", "b", "c"))])
def test_the_fewest_of_the_worst_stay_in_fp32(needed: int, expected: tuple[str, ...]) -> None:
    """One more at a time until it holds, and never more than a quarter: what then fails, the gates say."""
    asked: list[tuple[str, ...]] = []

    def holds(kept: Sequence[str]) -> bool:
        asked.append(tuple(kept))
        return len(kept) >= needed

    assert layers_to_keep(holds, lambda: list("abcdefghijkl")) == expected
    assert asked[0] == ()


def test_layers_are_not_ranked_where_all_may_be_quantised() -> None:
    """A sweep takes minutes on a large network, so it is not made for nothing."""

    def never() -> Sequence[str]:
        raise AssertionError

    assert layers_to_keep(lambda _: True, never) == ()


def test_drift_is_in_standard_deviations() -> None:
    """Twice as large logits that change twice as much drift alike."""
    logits = np.array([[1.0, -1.0], [1.0, -1.0]], np.float32)
    assert relative_drift(logits + 0.5, logits) == relative_drift(2 * logits + 1, 2 * logits) == 0.5
