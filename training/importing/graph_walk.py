"""Walking a graph backwards: who makes a value, and what is constant."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

PASSING: Final = frozenset(
    {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
)
"""Operators that change no number of their first input, but for its type."""


class GraphWalk:
    """The nodes of a graph by what they make; the graph must not change meanwhile."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._uses: dict[str, int] = {}
        for name in read_values(graph):
            self._uses[name] = self._uses.get(name, 0) + 1

    def maker(self, value: str) -> onnx.NodeProto | None:
        """The node that makes a value; None of inputs and constants."""
        return self._makers.get(value)

    def uses(self, value: str) -> int:
        """How often a value is an input of nodes or an output of the graph."""
        return self._uses.get(value, 0)

    def constant(self, value: str) -> NDArray[Any] | None:
        """The numbers of a constant; None where they are computed from the input."""
        if value in self._constants:
            return numpy_helper.to_array(self._constants[value])
        node = self.maker(value)
        if node is not None and node.op_type == "Constant" and node.attribute[0].name == "value":
            return numpy_helper.to_array(node.attribute[0].t)
        return None

    def numbers(self, value: str) -> NDArray[Any] | None:
        """The numbers of a constant in another shape or type too, and of one that is written as an attribute."""
        value, node = self.source(value)
        if (
            node is not None
            and node.op_type == "Constant"
            and node.attribute[0].name.startswith(("value_float", "value_int"))
        ):
            return np.asarray(helper.get_attribute_value(node.attribute[0]))
        return self.constant(value)

    def source(self, value: str) -> tuple[str, onnx.NodeProto | None]:
        """The value behind reshapes and the like, and the node that makes it."""
        node, passed = self.maker(value), {value}
        while (
            node is not None and node.op_type in PASSING and node.input[0] not in passed
        ):  # a broken file may go in circles
            value = node.input[0]
            passed.add(value)
            node = self.maker(value)
        return value, node


def read_values(graph: onnx.GraphProto) -> Iterator[str]:
    """What nodes read, those of branches and loops too, and what the graph gives out; a name as often as it is read."""
    for node in graph.node:
        yield from node.input
        for entry in node.attribute:
            for inner in (*([entry.g] if entry.HasField("g") else []), *entry.graphs):
                yield from read_values(inner)
    yield from (value.name for value in graph.output)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value, or the default."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def axes_of(walk: GraphWalk, node: onnx.NodeProto) -> list[int] | None:
    """The axes of a reduction: an attribute in old opsets, a constant input in new ones."""
    given = attribute(node, "axes")
    if given is None and len(node.input) > 1 and node.input[1]:
        constant = walk.constant(node.input[1])
        given = None if constant is None else np.atleast_1d(constant).tolist()
    return None if given is None else [int(axis) for axis in given]
