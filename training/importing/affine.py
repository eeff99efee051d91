"""Multiplications and additions behind a convolution become part of it: batch norms as Keras writes them."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from training.importing.graph_walk import GraphWalk

_AFFINE = frozenset({"Add", "Div", "Mul", "Sub"})


def fold_affine(graph: onnx.GraphProto) -> int:
    """Fold each step a channel into the convolution whose only reader it is, in place; how many there were.

    Exact: what follows the convolution sees no padding.
    """
    folded = 0
    walk = GraphWalk(graph)
    for node in list(graph.node):
        step = _step(walk, node)
        if step is None:
            continue
        convolution, multiplier, addend = step
        _rewrite(graph, walk, convolution, multiplier, addend)
        graph.node.remove(node)
        convolution.output[0] = node.output[0]
        folded += 1
        walk = GraphWalk(graph)
    return folded


def _step(
    walk: GraphWalk, node: onnx.NodeProto
) -> tuple[onnx.NodeProto, NDArray[Any], NDArray[Any]] | None:
    """The convolution before a step, and what the step multiplies each channel by and adds to it; None where it is no such step."""
    if node.op_type not in _AFFINE or len(node.input) != 2:
        return None
    value, constant = node.input[0], walk.constant(node.input[1])
    if constant is None and node.op_type in {"Add", "Mul"}:
        value, constant = node.input[1], walk.constant(node.input[0])
    before = walk.maker(value)
    if constant is None or before is None or before.op_type != "Conv" or walk.uses(value) != 1:
        return None
    weight = walk.constant(before.input[1])
    bias = (
        walk.constant(before.input[2])
        if len(before.input) > 2 and before.input[2]
        else np.zeros(1, np.float32)
    )
    if weight is None or bias is None or weight.ndim != 4 or weight.dtype != np.float32:
        return None
    channels = weight.shape[0]
    if constant.shape not in {
        (),
        (1,),
        (channels, 1, 1),
        (1, channels, 1, 1),
        (1, 1, 1, 1),
        (1, 1, 1),
    }:
        return None
    numbers = np.broadcast_to(constant.astype(np.float64).reshape(-1), (channels,))
    ones, zeros = np.ones(channels), np.zeros(channels)
    multiplier, addend = {
        "Add": (ones, numbers),
        "Sub": (ones, -numbers),
        "Mul": (numbers, zeros),
        "Div": (1 / numbers if (numbers != 0).all() else ones * np.nan, zeros),
    }[node.op_type]
    return (before, multiplier, addend) if np.isfinite(multiplier).all() else None


def _rewrite(
    graph: onnx.GraphProto,
    walk: GraphWalk,
    convolution: onnx.NodeProto,
    multiplier: NDArray[Any],
    addend: NDArray[Any],
) -> None:
    weight = walk.constant(convolution.input[1])
    bias = (
        walk.constant(convolution.input[2])
        if len(convolution.input) > 2 and convolution.input[2]
        else None
    )
    if weight is None:  # _step has looked
        return
    before = np.zeros(len(multiplier)) if bias is None else bias.astype(np.float64)
    name = convolution.output[0]
    new = {
        f"{name}/weight": weight.astype(np.float64) * multiplier[:, None, None, None],
        f"{name}/bias": before * multiplier + addend,
    }
    graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), key) for key, array in new.items()
    )
    convolution.input[:] = [convolution.input[0], *new]
