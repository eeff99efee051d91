"""Shortcuts without weights as convolutions: what INT8 kernels are quick at."""

from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from training.quantization.graph import drop_unused

_CHANNELS_BEFORE, _CHANNELS_AFTER = 1, 5  # of the eight numbers that pad [n, c, h, w]
_WHOLE_WINDOWS: Final = {"auto_pad": b"NOTSET", "ceil_mode": 0}


def shortcuts_to_convolutions(model: Any) -> None:
    """Let each average pool with zero channels put beside its own, option A's shortcut, be one convolution with the same answer.

    ONNX Runtime's INT8 pool, and the padding, which it does in fp32, together take as long as a 3x3 convolution. The weights
    are 0 and one over the window, exact in seven bits. Pools whose edges are padded stay.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    channels = {
        value.name: value.type.tensor_type.shape.dim[1].dim_value
        for value in inferred.value_info
        if len(value.type.tensor_type.shape.dim) == 4
    }
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    users: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    made = {value.name for value in model.graph.output}
    for pool in [
        node
        for node in model.graph.node
        if node.op_type == "AveragePool" and node.output[0] not in made
    ]:
        behind = users.get(pool.output[0], [])
        beside = _zero_channels(behind[0], constants) if len(behind) == 1 else None
        if beside and channels.get(pool.input[0]) and _has_whole_windows(pool):
            _replace(model, pool, behind[0], channels[pool.input[0]], *beside)
    drop_unused(model)


def _zero_channels(pad: Any, constants: dict[str, Any]) -> tuple[int, int] | None:
    """How many zero channels this node puts before and behind those that it takes, where it does nothing else."""
    if (
        pad.op_type != "Pad"
        or _attributes(pad).get("mode", b"constant") != b"constant"
        or pad.input[1] not in constants
    ):
        return None
    value = constants.get(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else 0
    numbers = constants[pad.input[1]].tolist()
    before, after = numbers[_CHANNELS_BEFORE], numbers[_CHANNELS_AFTER]
    if (
        len(pad.input) > 3
        or value != 0
        or min(before, after) < 0
        or sum(map(abs, numbers)) != before + after
    ):
        return None
    return before, after


def _has_whole_windows(pool: Any) -> bool:
    given = _attributes(pool)
    plain = all(given.get(name, value) == value for name, value in _WHOLE_WINDOWS.items())
    return plain and not any(given.get("pads", [])) and set(given.get("dilations", [1])) == {1}


def _replace(model: Any, pool: Any, pad: Any, channels: int, before: int, after: int) -> None:
    given = _attributes(pool)
    kernel = given["kernel_shape"]
    weights = np.zeros((before + channels + after, channels, *kernel), np.float32)
    weights[range(before, before + channels), range(channels)] = 1 / np.prod(kernel)
    name = f"{pool.name} as a convolution"
    model.graph.initializer.append(numpy_helper.from_array(weights, f"{name}: weights"))
    convolution = helper.make_node(
        "Conv",
        [pool.input[0], f"{name}: weights"],
        [pad.output[0]],
        name=name,
        kernel_shape=kernel,
        strides=given.get("strides", [1] * len(kernel)),
    )
    model.graph.node.insert(list(model.graph.node).index(pool), convolution)
    for node in (pool, pad):
        model.graph.node.remove(node)


def _attributes(node: Any) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
