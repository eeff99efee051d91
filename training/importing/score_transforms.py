"""The constant steps (scale, shift, clip) between a network's last layer and its scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from training.importing.graph_walk import GraphWalker, attribute

_BINARY_OPERATORS: Final[Mapping[str, Callable[..., NDArray[Any]]]] = {
    "Add": np.add,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Sub": np.subtract,
}
_COMMUTATIVE: Final = frozenset({"Add", "Max", "Min", "Mul"})


@dataclass(frozen=True)
class ScoreTransform:
    """One node with constants: a single number for all scores, or one per class."""

    operator: str
    constants: tuple[NDArray[Any], ...]

    def apply(self, scores: NDArray[Any]) -> NDArray[Any]:
        operation = np.clip if self.operator == "Clip" else _BINARY_OPERATORS[self.operator]
        return np.asarray(operation(scores, *self.constants))


@dataclass(frozen=True)
class ScoreTransforms:
    """The node that computes the scores (None for an input) and the steps after it, in order."""

    node: onnx.NodeProto | None
    steps: tuple[ScoreTransform, ...]

    def apply(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Apply the steps to scores, float `[n, classes]`."""
        for step in self.steps:
            scores = step.apply(scores)
        return scores

    @property
    def preserves_order(self) -> bool:
        """Whether the class with the larger probability always gets the larger score."""
        if any(constant.size != 1 for step in self.steps for constant in step.constants):
            return False
        low, high = self.apply(np.array([0.0, 1.0]))  # each step is monotonic
        return bool(high > low)

    def __str__(self) -> str:
        return ", ".join(step.operator for step in self.steps)


def find_score_transforms(walker: GraphWalker, output: str) -> ScoreTransforms:
    """Walk back from an output through reshapes and steps with constants."""
    steps: list[ScoreTransform] = []
    value, node = walker.source(output)
    visited = {value}
    while node is not None and (found := _read_step(walker, node)) is not None:
        before, step = found
        value, producer = walker.source(before)
        if value in visited:  # a broken file may have cycles
            break
        steps.insert(0, step)
        visited.add(value)
        node = producer
    return ScoreTransforms(node, tuple(steps))


def _read_step(walker: GraphWalker, node: onnx.NodeProto) -> tuple[str, ScoreTransform] | None:
    """The input of a node and its transform; None if its other inputs are not all constants."""
    if node.op_type == "Clip":
        return _read_clip(walker, node)
    if node.op_type not in _BINARY_OPERATORS or len(node.input) != 2:
        return None
    value, other = node.input
    constant = walker.numbers(other)
    if constant is None and node.op_type in _COMMUTATIVE:
        value, constant = other, walker.numbers(value)
    if constant is None:
        return None
    return value, ScoreTransform(node.op_type, (_as_scalar(constant),))


def _read_clip(walker: GraphWalker, node: onnx.NodeProto) -> tuple[str, ScoreTransform] | None:
    names = [*node.input[1:], "", ""][:2]
    # Before opset 11 the bounds are attributes.
    defaults = (attribute(node, "min", -np.inf), attribute(node, "max", np.inf))
    low, high = (
        walker.numbers(name) if name else np.array(default)
        for name, default in zip(names, defaults, strict=True)
    )
    if low is None or high is None:
        return None
    return node.input[0], ScoreTransform("Clip", (_as_scalar(low), _as_scalar(high)))


def _as_scalar(numbers: NDArray[Any]) -> NDArray[Any]:
    """Remove the axes of a single number, because they would be broadcast to the scores."""
    return numbers.reshape(()) if numbers.size == 1 else numbers
