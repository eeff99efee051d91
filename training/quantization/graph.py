"""An ONNX graph as a row of layers behind a preamble: what the conversions to other precisions need to know of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import onnx

from training.errors import QuantizationError

LAYERS: Final = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Layer:
    """One set of weights, by its name, and the nodes that use it: several where a graph computes the network twice."""

    name: str
    nodes: tuple[str, ...]


def read_graph(data: bytes) -> Any:
    """The ONNX model, every node with a name of its own. Raises QuantizationError where these bytes are none."""
    try:
        model: Any = onnx.load_model_from_string(data)
    except Exception as error:  # noqa: BLE001  protobuf's own exceptions share no public base class
        raise QuantizationError(f"the fp32 file is no ONNX model: {error}") from None
    taken = {node.name for node in model.graph.node}
    numbers = count()
    for node in model.graph.node:
        if not node.name:
            node.name = next(
                name
                for name in (f"{node.op_type}_{number}" for number in numbers)
                if name not in taken
            )
    return model


def layers_of(model: Any) -> tuple[Layer, ...]:
    """The layers with weights, in the order of the graph. Raises QuantizationError where there are none."""
    weights = {tensor.name for tensor in model.graph.initializer}
    users: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in weights:
            users.setdefault(node.input[1], []).append(node.name)
    if not users:
        raise QuantizationError(
            "the graph has no Conv, Gemm or MatMul with weights of its own, so there is nothing to convert"
        )
    return tuple(Layer(name, tuple(nodes)) for name, nodes in users.items())


def preamble_of(model: Any) -> tuple[str, ...]:
    """The nodes between the input and the first layer: from bytes to what the network takes, in the order of the graph."""
    first = layers_of(model)[0].nodes[0]
    return _before(model, [node.input[0] for node in model.graph.node if node.name == first])


def head_of(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The nodes of the last layers, those that lead to no other layer, and the nodes behind them: from sums to scores."""
    layers = {name for layer in layers_of(model) for name in layer.nodes}
    before = set(
        _before(model, [node.input[0] for node in model.graph.node if node.name in layers])
    )
    rest = [node.name for node in model.graph.node if node.name not in before]
    return tuple(name for name in rest if name in layers), tuple(
        name for name in rest if name not in layers
    )


def _before(model: Any, tensors: Iterable[str]) -> tuple[str, ...]:
    """The nodes that these tensors come from, in the order of the graph."""
    producers = producers_of(model)
    waiting, found = list(tensors), set()
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return tuple(node.name for node in model.graph.node if node.name in found)


def producers_of(model: Any) -> Mapping[str, Any]:
    """The node that makes each tensor."""
    return {name: node for node in model.graph.node for name in node.output}


def rename_input(model: Any, old: str, new: str, among: frozenset[str] | None = None) -> None:
    """Let the nodes (all, or those named) take `new` for `old`."""
    for node in model.graph.node:
        if among is None or node.name in among:
            node.input[:] = [new if name == old else name for name in node.input]


def drop_unused(model: Any) -> None:
    """Constants that no node takes any more, and what was said of tensors that are gone."""
    used = {name for node in model.graph.node for name in node.input}
    unused = [tensor for tensor in model.graph.initializer if tensor.name not in used]
    for tensor in unused:
        model.graph.initializer.remove(tensor)
    there = producers_of(model)
    for value in [value for value in model.graph.value_info if value.name not in there]:
        model.graph.value_info.remove(value)
