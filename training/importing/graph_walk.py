"""Walks an ONNX graph backwards: finds producers of values, and constants."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

PASS_THROUGH_OPERATORS: Final = frozenset(
    {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
)
"""Operators that return the numbers of their first input unchanged, except for their type."""


class GraphWalker:
    """Finds producers and constants. The graph must not change while the walker is used."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._uses = Counter(used_values(graph))

    def producer(self, value: str) -> onnx.NodeProto | None:
        """The node that computes a value; None for inputs and constants."""
        return self._producers.get(value)

    def uses(self, value: str) -> int:
        """How often a value is an input of a node or an output of the graph."""
        return self._uses[value]

    def constant(self, value: str) -> NDArray[Any] | None:
        """The numbers of a constant; None if they are computed."""
        if value in self._constants:
            return numpy_helper.to_array(self._constants[value])
        node = self.producer(value)
        if node is not None and node.op_type == "Constant" and node.attribute[0].name == "value":
            return numpy_helper.to_array(node.attribute[0].t)
        return None

    def numbers(self, value: str) -> NDArray[Any] | None:
        """Like `constant`, but also looks through reshapes and casts, and into attributes."""
        value, node = self.source(value)
        if (
            node is not None
            and node.op_type == "Constant"
            and node.attribute[0].name.startswith(("value_float", "value_int"))
        ):
            return np.asarray(helper.get_attribute_value(node.attribute[0]))
        return self.constant(value)

    def source(self, value: str) -> tuple[str, onnx.NodeProto | None]:
        """The value before any pass-through operators, and its producer."""
        node, visited = self.producer(value), {value}
        # A broken file may have cycles.
        while (
            node is not None
            and node.op_type in PASS_THROUGH_OPERATORS
            and node.input[0] not in visited
        ):
            value = node.input[0]
            visited.add(value)
            node = self.producer(value)
        return value, node


def used_values(graph: onnx.GraphProto) -> Iterator[str]:
    """Inputs of nodes (also in branches and loops) and outputs of the graph, once per use."""
    for node in graph.node:
        yield from node.input
        for entry in node.attribute:
            for inner in (*([entry.g] if entry.HasField("g") else []), *entry.graphs):
                yield from used_values(inner)
    yield from (value.name for value in graph.output)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def axes_of(walker: GraphWalker, node: onnx.NodeProto) -> list[int] | None:
    """The axes of a reduction: an attribute in old opsets, a constant input in new ones."""
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        constant = walker.constant(node.input[1])
        axes = None if constant is None else np.atleast_1d(constant).tolist()
    return None if axes is None else [int(axis) for axis in axes]
