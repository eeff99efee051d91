"""Replaces shortcuts without weights by convolutions, which INT8 kernels compute faster."""

from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from training.quantization.graph import remove_unused

_CHANNELS_BEFORE, _CHANNELS_AFTER = 1, 5  # positions in the eight paddings of [n, c, h, w]
_DEFAULT_ATTRIBUTES: Final = {"auto_pad": b"NOTSET", "ceil_mode": 0}


def replace_padded_pools(model: Any) -> None:
    """Replace each average pool followed by zero-padded channels by one equivalent convolution.

    This is the shortcut of option A (He et al. 2015, section 3.3). ONNX Runtime's INT8 pool and its
    fp32 padding together take as long as a 3x3 convolution. The weights are 0 and 1 / window
    size, which 7 bits represent exactly. Pools with padded edges are not replaced.
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
    outputs = {value.name for value in model.graph.output}
    for pool in [
        node
        for node in model.graph.node
        if node.op_type == "AveragePool" and node.output[0] not in outputs
    ]:
        following = users.get(pool.output[0], [])
        padding = _padded_channels(following[0], constants) if len(following) == 1 else None
        if padding and channels.get(pool.input[0]) and _has_whole_windows(pool):
            _replace(model, pool, following[0], channels[pool.input[0]], *padding)
    remove_unused(model)


def _padded_channels(pad: Any, constants: dict[str, Any]) -> tuple[int, int] | None:
    """Numbers of zero channels before and after; None if the node pads anything else."""
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
    attributes = _attributes(pool)
    default = all(
        attributes.get(name, value) == value for name, value in _DEFAULT_ATTRIBUTES.items()
    )
    return (
        default
        and not any(attributes.get("pads", []))
        and set(attributes.get("dilations", [1])) == {1}
    )


def _replace(model: Any, pool: Any, pad: Any, channels: int, before: int, after: int) -> None:
    attributes = _attributes(pool)
    kernel = attributes["kernel_shape"]
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
        strides=attributes.get("strides", [1] * len(kernel)),
    )
    model.graph.node.insert(list(model.graph.node).index(pool), convolution)
    for node in (pool, pad):
        model.graph.node.remove(node)


def _attributes(node: Any) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
