"""Small graphs as importers write them, unlike our own exporter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 8


def random_weights(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / 4).astype(np.float32)


def graph_of(nodes: Sequence[Any], weights: dict[str, np.ndarray], opset: int = 20) -> bytes:
    """A model from `images` to `logits` `[batch, 3]`."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def two_layers(multiplier: Sequence[float], addend: Sequence[float], head: str = "linear") -> bytes:
    """A preamble per channel, a convolution, and one of HEADS; most nodes have no name."""
    nodes = [
        helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["nchw"], ["float"], to=TensorProto.FLOAT, name="Conv_0"),
        helper.make_node("Mul", ["float", "multiplier"], ["scaled"]),
        helper.make_node("Add", ["scaled", "addend"], ["pixels"]),
        helper.make_node(
            "Conv",
            ["pixels", "conv.weight", "conv.bias"],
            ["conv"],
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
        ),
        helper.make_node("Relu", ["conv"], ["features"]),
        *HEADS[head],
    ]
    weights = {
        "multiplier": np.array(multiplier, np.float32).reshape(1, 3, 1, 1),
        "addend": np.array(addend, np.float32).reshape(1, 3, 1, 1),
        "conv.weight": random_weights(4, 3, 3, 3),
        "conv.bias": random_weights(4, seed=1),
        "axes": np.array([2, 3], np.int64),
        "fc.weight": random_weights(4, 3, seed=2),
        "fc.bias": random_weights(3, seed=3),
        "head.weight": random_weights(3, 4, 1, 1, seed=2),
    }
    used = {name for node in nodes for name in node.input}
    return graph_of(nodes, {name: value for name, value in weights.items() if name in used})


_POOL = helper.make_node("ReduceMean", ["features", "axes"], ["pooled"], keepdims=0)
HEADS = {
    "linear": (_POOL, helper.make_node("Gemm", ["pooled", "fc.weight", "fc.bias"], ["logits"])),
    "product and sum": (
        _POOL,
        helper.make_node("MatMul", ["pooled", "fc.weight"], ["product"]),
        helper.make_node("Add", ["product", "fc.bias"], ["logits"]),
    ),
    "product alone": (_POOL, helper.make_node("MatMul", ["pooled", "fc.weight"], ["logits"])),
    "probabilities": (
        _POOL,
        helper.make_node("Gemm", ["pooled", "fc.weight", "fc.bias"], ["sums"]),
        helper.make_node("Softmax", ["sums"], ["logits"]),
    ),
    "convolution of means": (
        helper.make_node("GlobalAveragePool", ["features"], ["means"]),
        helper.make_node(
            "Conv", ["means", "head.weight", "fc.bias"], ["maps"], kernel_shape=[1, 1]
        ),
        helper.make_node("Flatten", ["maps"], ["logits"]),
    ),
    "convolution": (
        helper.make_node(
            "Conv", ["features", "head.weight", "fc.bias"], ["maps"], kernel_shape=[1, 1]
        ),
        helper.make_node("Relu", ["maps"], ["rectified"]),
        helper.make_node("GlobalAveragePool", ["rectified"], ["means"]),
        helper.make_node("Flatten", ["means"], ["logits"]),
    ),
}
"""Nodes from the feature map to the scores."""


def images(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, SIDE, SIDE, 3), np.uint8)


def nodes_by_operator(data: bytes) -> dict[str, list[Any]]:
    nodes: dict[str, list[Any]] = {}
    for node in onnx.load_model_from_string(data).graph.node:
        nodes.setdefault(node.op_type, []).append(node)
    return nodes
