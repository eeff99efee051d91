"""Finds the parts of an ONNX graph that conversions need: preamble, layers with weights, head."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import onnx

from training.errors import QuantizationError

LAYER_OPERATORS: Final = frozenset({"Conv", "Gemm", "MatMul"})
_INTEGER_OPERATORS: Final = frozenset(
    {
        *("ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"),
        *("QGemm", "QLinearConv", "QLinearMatMul", "QuantizeLinear"),
    }
)
_HALF_TYPES: Final = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}


@dataclass(frozen=True)
class Layer:
    """The name of a weight, and the nodes that use it. A shared weight has several nodes."""

    name: str
    nodes: tuple[str, ...]


def read_graph(data: bytes) -> Any:
    """Parse an ONNX model and name its unnamed nodes. Raises QuantizationError if it is not one."""
    try:
        model: Any = onnx.load_model_from_string(data)
    except Exception as error:  # noqa: BLE001  protobuf's own exceptions share no public base class
        raise QuantizationError(f"the fp32 file is not an ONNX model: {error}") from None
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


def reduced_precision(model: Any, *, through_casts: bool = False) -> str | None:
    """Name the precision (INT8, fp16 or bf16) with evidence; None for a float32 graph."""
    if found := sorted({node.op_type for node in model.graph.node} & _INTEGER_OPERATORS):
        return f"INT8 ({', '.join(found)})"
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if through_casts and node.op_type == "Cast" and node.input[0] in types:
            types[node.output[0]] = types[node.input[0]]
        kind = types.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type in LAYER_OPERATORS and kind in _HALF_TYPES:
            return f"{_HALF_TYPES[kind]} ({node.input[1]})"
    return None


def require_float32(data: bytes, source: object) -> None:
    """Raise QuantizationError if the graph is INT8, fp16 or bf16 already."""
    # An import for CPUs has casts between its half-precision weights and the layers.
    if precision := reduced_precision(read_graph(data), through_casts=True):
        raise QuantizationError(
            f"{source} is already {precision}, so it cannot be converted; import the float32 file "
            "and convert that"
        )


def layers_of(model: Any) -> tuple[Layer, ...]:
    """The layers with weights, in graph order. Raises QuantizationError if there are none."""
    weights = {tensor.name for tensor in model.graph.initializer}
    users: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in LAYER_OPERATORS and len(node.input) > 1 and node.input[1] in weights:
            users.setdefault(node.input[1], []).append(node.name)
    if not users:
        raise QuantizationError(
            "the graph has no Conv, Gemm or MatMul with constant weights, so there is nothing to "
            "convert"
        )
    return tuple(Layer(name, tuple(nodes)) for name, nodes in users.items())


def preamble_of(model: Any) -> tuple[str, ...]:
    """The nodes between the input and the first layer, in graph order."""
    first = layers_of(model)[0].nodes[0]
    return _ancestors(model, [node.input[0] for node in model.graph.node if node.name == first])


def head_of(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The nodes of the last layers, and the nodes after them, in graph order."""
    layers = {name for layer in layers_of(model) for name in layer.nodes}
    before = set(
        _ancestors(model, [node.input[0] for node in model.graph.node if node.name in layers])
    )
    rest = [node.name for node in model.graph.node if node.name not in before]
    return tuple(name for name in rest if name in layers), tuple(
        name for name in rest if name not in layers
    )


def _ancestors(model: Any, tensors: Iterable[str]) -> tuple[str, ...]:
    """The nodes that these tensors depend on, in graph order."""
    producers = producers_of(model)
    pending, ancestors = list(tensors), set()
    while pending:
        node = producers.get(pending.pop())
        if node is not None and node.name not in ancestors:
            ancestors.add(node.name)
            pending += node.input
    return tuple(node.name for node in model.graph.node if node.name in ancestors)


def producers_of(model: Any) -> Mapping[str, Any]:
    """Map the name of each tensor to the node that computes it."""
    return {name: node for node in model.graph.node for name in node.output}


def rename_input(model: Any, old: str, new: str, among: frozenset[str] | None = None) -> None:
    """Replace the input `old` by `new` in all nodes, or in those named."""
    for node in model.graph.node:
        if among is None or node.name in among:
            node.input[:] = [new if name == old else name for name in node.input]


def remove_unused(model: Any) -> None:
    """Remove unused constants, and type information of tensors that no longer exist."""
    used = {name for node in model.graph.node for name in node.input}
    unused = [tensor for tensor in model.graph.initializer if tensor.name not in used]
    for tensor in unused:
        model.graph.initializer.remove(tensor)
    producers = producers_of(model)
    for value in [value for value in model.graph.value_info if value.name not in producers]:
        model.graph.value_info.remove(value)
