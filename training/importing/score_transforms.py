"""What a graph does to its scores after its last real step: multiplied, shifted and clipped by constants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from training.importing.graph_walk import GraphWalk, attribute

_WITH_CONSTANT: Final[Mapping[str, Callable[..., NDArray[Any]]]] = {
    "Add": np.add,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Sub": np.subtract,
}
_EITHER_WAY: Final = frozenset({"Add", "Max", "Min", "Mul"})


@dataclass(frozen=True)
class Step:
    """One node that does the same to each score, or, where its constants are no single numbers, something else to each class."""

    operator: str
    constants: tuple[NDArray[Any], ...]

    def apply(self, scores: NDArray[Any]) -> NDArray[Any]:
        """The node, reckoned again."""
        operation = np.clip if self.operator == "Clip" else _WITH_CONSTANT[self.operator]
        return np.asarray(operation(scores, *self.constants))


@dataclass(frozen=True)
class Closing:
    """The node that makes the scores (None of an input) and the steps that follow it, in their order."""

    node: onnx.NodeProto | None
    steps: tuple[Step, ...]

    def apply(self, scores: NDArray[Any]) -> NDArray[Any]:
        """What the steps make of scores, float `[n, classes]`."""
        for step in self.steps:
            scores = step.apply(scores)
        return scores

    @property
    def keeps_order(self) -> bool:
        """Whether a larger probability stays the larger score, whichever classes the two are of."""
        if any(constant.size != 1 for step in self.steps for constant in step.constants):
            return False
        line = self.apply(np.linspace(0, 1, 101)).reshape(-1)
        return bool((np.diff(line) >= 0).all() and line[-1] > line[0])

    def __str__(self) -> str:
        return ", ".join(step.operator for step in self.steps)


def find_closing(walk: GraphWalk, output: str) -> Closing:
    """Walk back from an output through reshapes and steps with constants."""
    steps: list[Step] = []
    value, node = walk.source(output)
    passed = {value}
    while node is not None and (found := _step(walk, node)) is not None:
        before, step = found
        value, following = walk.source(before)
        if value in passed:  # a broken file may go in circles
            break
        steps.insert(0, step)
        passed.add(value)
        node = following
    return Closing(node, tuple(steps))


def _step(walk: GraphWalk, node: onnx.NodeProto) -> tuple[str, Step] | None:
    """The value before a node and what the node does to it; None where that takes more than constants."""
    if node.op_type == "Clip":
        names = [*node.input[1:], "", ""][:2]
        defaults = (
            attribute(node, "min", -np.inf),
            attribute(node, "max", np.inf),
        )  # attributes before opset 11
        low, high = (
            walk.numbers(name) if name else np.array(default)
            for name, default in zip(names, defaults, strict=True)
        )
        return (
            None
            if low is None or high is None
            else (node.input[0], Step("Clip", (_scalar(low), _scalar(high))))
        )
    if node.op_type not in _WITH_CONSTANT or len(node.input) != 2:
        return None
    value, other = node.input
    constant = walk.numbers(other)
    if constant is None and node.op_type in _EITHER_WAY:
        value, constant = other, walk.numbers(value)
    return None if constant is None else (value, Step(node.op_type, (_scalar(constant),)))


def _scalar(numbers: NDArray[Any]) -> NDArray[Any]:
    """One number without axes, which else would be added to the scores'."""
    return numbers.reshape(()) if numbers.size == 1 else numbers
