"""Where the scores of an ONNX classifier are, and its pooled linear head."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_graphs import CHANNELS, CLASSES, LABELS, Builder, model_of
from onnx import TensorProto, helper

from training.errors import ForeignModelError
from training.importing.foreign_file import ForeignFile, TensorInfo
from training.importing.head import PooledHead, choose_output, find_pooled_head
from training.importing.import_report import ImportReport

PIXELS = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])
FLOAT = TensorProto.FLOAT


def tensor(name: str, *shape: int | None, dtype: int = FLOAT) -> TensorInfo:
    return TensorInfo(name, dtype, (None, *shape))


def choose(*outputs: TensorInfo, requested: str | None = None) -> str:
    file = ForeignFile(Path("m.onnx"), onnx.ModelProto(), tensor("pixels", 3, 8, 8), outputs)
    return choose_output(file, LABELS, requested, ImportReport("m")).name


def test_the_output_with_one_score_per_class_is_chosen() -> None:
    embedding, labels = tensor("embedding", 7), tensor("labels", dtype=TensorProto.INT64)
    assert choose(embedding, tensor("map", 4, 4, 4), labels, tensor("scores", CLASSES)) == "scores"
    assert choose(embedding, tensor("scores", CLASSES, 1, 1)) == "scores"
    assert choose(embedding, tensor("scores", None)) == "scores"


def test_the_requested_output_is_chosen() -> None:
    outputs = tensor("scores", CLASSES), tensor("auxiliary", CLASSES)
    assert choose(*outputs, requested="auxiliary") == "auxiliary"
    with pytest.raises(ForeignModelError, match="'logits'"):
        choose(*outputs, requested="logits")


def test_a_single_score_is_not_one_per_class() -> None:
    with pytest.raises(ForeignModelError, match="1 scores"):
        choose(tensor("scores", 1))


def pooled(builder: Builder, classes: int = CLASSES) -> PooledHead | str:
    info = helper.make_tensor_value_info(builder.value, FLOAT, None)
    return find_pooled_head(model_of(builder, [PIXELS], [info]).graph, builder.value, classes)


def feature_map(channels: int = CHANNELS) -> Builder:
    builder = Builder("pixels")
    builder.add("Conv", np.ones((channels, 3, 3, 3)), pads=[1, 1, 1, 1])
    return builder


def test_the_biases_of_a_layer_and_of_an_addition_are_added() -> None:
    builder = feature_map()
    features = builder.value
    builder.add("GlobalAveragePool")
    mean = builder.value
    builder.add("Flatten", axis=1)
    weight = np.arange(CLASSES * CHANNELS, dtype=np.float32).reshape(CLASSES, CHANNELS)
    builder.add("Gemm", weight, np.arange(CLASSES), transB=1, alpha=2.0, beta=3.0)
    builder.add("Add", np.full(CLASSES, 10))
    head = pooled(builder)
    assert isinstance(head, PooledHead)
    assert (head.features, head.pooled, head.layout) == (features, mean, "NCHW")
    assert not head.class_maps
    assert np.array_equal(head.weight, 2 * weight)
    assert head.bias.tolist() == [10, 13, 16, 19, 22]


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        (np.ones((CLASSES, CLASSES, 3, 3)), {"pads": [1, 1, 1, 1]}),
        (np.ones((CLASSES, 1, 1, 1)), {"group": CLASSES}),
    ],
)
def test_a_convolution_that_is_not_a_linear_layer_is_not_a_head(
    weight: np.ndarray, attributes: dict[str, Any]
) -> None:
    """Its kernel is larger than 1x1, or it has groups."""
    builder = feature_map(CLASSES)
    builder.add("GlobalAveragePool")
    builder.add("Conv", weight, **attributes)
    builder.add("Flatten", axis=1)
    reason = pooled(builder)
    assert isinstance(reason, str)
    assert "Conv" in reason


@pytest.mark.parametrize(
    ("axes", "layout"), [([2, 3], "NCHW"), ([-1, -2], "NCHW"), ([1, 2], "NHWC"), ([1, 3], None)]
)
def test_a_mean_over_two_spatial_axes_is_a_pooling(axes: list[int], layout: str | None) -> None:
    builder = feature_map()
    builder.add("ReduceMean", axes=axes, keepdims=0)
    builder.add("MatMul", np.ones((8, CLASSES)))
    head = pooled(builder)
    assert (head.layout if isinstance(head, PooledHead) else None) == layout
