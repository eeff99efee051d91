"""Layers, preamble, head and node names of a graph."""

import numpy as np
import pytest
from graphs import graph_of, random_weights, two_layers
from onnx import TensorProto, helper

from training.errors import QuantizationError
from training.quantization.graph import head_of, layers_of, preamble_of, read_graph


def test_layers_have_weights_and_the_preamble_is_before_them() -> None:
    """Every node has a unique name, although one is named like the first generated name."""
    model = read_graph(two_layers([1, 2, 3], [0, 0, 0]))
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert [layer.name for layer in layers_of(model)] == ["conv.weight", "fc.weight"]
    assert preamble_of(model) == tuple(names[:4])


def test_the_head_leads_to_no_other_layer() -> None:
    """It is the last layer, and the nodes from there to the scores."""

    def operators(head: str) -> tuple[list[str], list[str]]:
        model = read_graph(two_layers([1, 2, 3], [0, 0, 0], head))
        kinds = {node.name: node.op_type for node in model.graph.node}
        last, after = head_of(model)
        return [kinds[name] for name in last], [kinds[name] for name in after]

    assert operators("linear") == (["Gemm"], [])
    assert operators("product and sum") == (["MatMul"], ["Add"])
    assert operators("convolution") == (["Conv"], ["Relu", "GlobalAveragePool", "Flatten"])


def test_weights_that_are_used_twice_are_one_layer() -> None:
    """A mirrored network runs each weight twice, and both nodes are quantized or neither."""
    nodes = [
        helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["nchw"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["float", "weight"], ["once"], kernel_shape=[8, 8], name="once"),
        helper.make_node("Conv", ["float", "weight"], ["twice"], kernel_shape=[8, 8], name="twice"),
        helper.make_node("Add", ["once", "twice"], ["sum"]),
        helper.make_node("Flatten", ["sum"], ["logits"]),
    ]
    (layer,) = layers_of(read_graph(graph_of(nodes, {"weight": random_weights(3, 3, 8, 8)})))
    assert layer.nodes == ("once", "twice")


def test_a_graph_without_weights_is_refused() -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["logits"], keepdims=0),
    ]
    with pytest.raises(QuantizationError, match="no Conv, Gemm or MatMul"):
        layers_of(read_graph(graph_of(nodes, {"axes": np.array([1, 2])})))


def test_bytes_that_are_not_a_model_are_refused() -> None:
    with pytest.raises(QuantizationError, match="not an ONNX model"):
        read_graph(b"\xff\xff\xff")
