"""Folds per-channel additions and multiplications (Keras's batch norms) into convolutions."""

from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from training.importing.graph_walk import GraphWalker

_AFFINE_OPERATORS: Final = frozenset({"Add", "Div", "Mul", "Sub"})


def fold_affine(graph: onnx.GraphProto) -> int:
    """Fold each affine step into the convolution before it, in place, and return their number.

    This is exact, because the step follows the convolution and its padding. A convolution whose
    output is also used elsewhere is not changed.
    """
    folded = 0
    walker = GraphWalker(graph)
    for node in list(graph.node):
        step = _read_step(walker, node)
        if step is None:
            continue
        convolution, multiplier, addend = step
        _rewrite(graph, walker, convolution, multiplier, addend)
        graph.node.remove(node)
        convolution.output[0] = node.output[0]
        folded += 1
        walker = GraphWalker(graph)
    return folded


def _read_step(
    walker: GraphWalker, node: onnx.NodeProto
) -> tuple[onnx.NodeProto, NDArray[Any], NDArray[Any]] | None:
    """The convolution before a step, and the step's multiplier and addend, `[channels]`."""
    if node.op_type not in _AFFINE_OPERATORS or len(node.input) != 2:
        return None
    value, constant = node.input[0], walker.constant(node.input[1])
    if constant is None and node.op_type in {"Add", "Mul"}:
        value, constant = node.input[1], walker.constant(node.input[0])
    convolution = walker.producer(value)
    if constant is None or convolution is None or convolution.op_type != "Conv":
        return None
    weight, bias = _parameters(walker, convolution)
    if walker.uses(value) != 1 or weight is None or bias is None or weight.ndim != 4:
        return None
    channels = len(weight)
    per_channel = {(channels, 1, 1), (1, channels, 1, 1)}
    single = {(), (1,), (1, 1, 1), (1, 1, 1, 1)}
    if weight.dtype != np.float32 or constant.shape not in per_channel | single:
        return None
    numbers = np.broadcast_to(constant.astype(np.float64).reshape(-1), (channels,))
    multiplier, addend = np.ones(channels), np.zeros(channels)
    if node.op_type == "Mul":
        multiplier = numbers
    elif node.op_type == "Div":
        multiplier = 1 / np.where(numbers == 0, np.nan, numbers)
    else:
        addend = numbers if node.op_type == "Add" else -numbers
    return (convolution, multiplier, addend) if np.isfinite(multiplier).all() else None


def _parameters(
    walker: GraphWalker, convolution: onnx.NodeProto
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """The constant weight and bias of a convolution. A missing bias becomes a single 0."""
    has_bias = len(convolution.input) > 2 and bool(convolution.input[2])
    bias = walker.constant(convolution.input[2]) if has_bias else np.zeros(1, np.float32)
    return walker.constant(convolution.input[1]), bias


def _rewrite(
    graph: onnx.GraphProto,
    walker: GraphWalker,
    convolution: onnx.NodeProto,
    multiplier: NDArray[Any],
    addend: NDArray[Any],
) -> None:
    weight, bias = _parameters(walker, convolution)
    if weight is None or bias is None:  # _read_step has checked; this is for mypy
        return
    name = convolution.output[0]
    parameters = {
        f"{name}/weight": weight.astype(np.float64) * multiplier[:, None, None, None],
        f"{name}/bias": bias.astype(np.float64) * multiplier + addend,
    }
    graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), key) for key, array in parameters.items()
    )
    convolution.input[:] = [convolution.input[0], *parameters]
