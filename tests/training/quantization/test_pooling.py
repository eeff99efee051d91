"""Option A's shortcut becomes one convolution if that is equivalent."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import graph_of, images, random_weights
from onnx import TensorProto, helper

from training.quantization.graph import read_graph
from training.quantization.pooling import replace_padded_pools

POOL: dict[str, Any] = {"kernel_shape": [1, 1], "strides": [2, 2]}
PADS = (0, 2, 0, 0, 0, 1, 0, 0)


def shortcut(
    pool: dict[str, Any], pads: tuple[int, ...] = PADS, value: float = 0.0, mode: str = "constant"
) -> bytes:
    """A pool, padded channels, the mean, and a Gemm."""
    nodes = [
        helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["nchw"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("AveragePool", ["pixels"], ["pooled"], **pool),
        helper.make_node("Pad", ["pooled", "pads", "value"], ["wide"], mode=mode),
        helper.make_node("ReduceMean", ["wide", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "fc.weight"], ["logits"]),
    ]
    channels = 3 + pads[1] + pads[5]
    weights = {
        "pads": np.array(pads, np.int64),
        "value": np.array(value, np.float32),
        "axes": np.array([2, 3], np.int64),
        "fc.weight": random_weights(channels, 3),
    }
    return graph_of(nodes, weights)


def run(model: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(["logits"], {"images": images(3)})[0])


def operators(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("pool", "pads"),
    [
        (POOL, PADS),
        (POOL, (0, 0, 0, 0, 0, 3, 0, 0)),
        ({"kernel_shape": [2, 2], "strides": [2, 2]}, PADS),
        ({"kernel_shape": [2, 4]}, PADS),
    ],
)
def test_a_shortcut_becomes_an_equivalent_convolution(
    pool: dict[str, Any], pads: tuple[int, ...]
) -> None:
    """With channels padded before and after, and windows of one pixel and more."""
    model = read_graph(shortcut(pool, pads))
    before = run(model)
    replace_padded_pools(model)
    onnx.checker.check_model(model, full_check=True)
    assert operators(model) == ["Transpose", "Cast", "Conv", "ReduceMean", "Gemm"]
    assert {"pads", "value"}.isdisjoint(tensor.name for tensor in model.graph.initializer)
    np.testing.assert_allclose(run(model), before, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "data",
    [
        shortcut({"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}),
        shortcut({"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        shortcut({"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
        shortcut(POOL, value=1.0),
        shortcut(POOL, (0, 2, 1, 0, 0, 1, 0, 0)),
        shortcut(POOL, (0, -1, 0, 0, 0, 2, 0, 0)),
        shortcut(POOL, mode="edge"),
    ],
    ids=["padded", "ceil", "same", "ones", "rows", "cropped", "edge"],
)
def test_any_other_pool_stays(data: bytes) -> None:
    model = read_graph(data)
    replace_padded_pools(model)
    assert "AveragePool" in operators(model)


def test_a_pool_with_another_user_stays() -> None:
    """Here: the graph's output."""
    model = read_graph(shortcut(POOL))
    model.graph.output.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, None))
    replace_padded_pools(model)
    assert "AveragePool" in operators(model)
