"""A real ONNX classifier of a few hundred bytes, written without the `onnx` package.

Logits = mean colour x weights.
"""

import struct
from collections.abc import Iterable

import numpy as np

FLOAT, UINT8, INT64, STRING, DOUBLE = 1, 2, 7, 8, 11  # TensorProto.DataType
_VARINT, _BYTES = 0, 2  # protobuf's wire types
_EXTERNAL = 1  # TensorProto.DataLocation


def tiny_model_bytes(
    height: int,
    width: int,
    weights: np.ndarray,
    *,
    input_name: str = "images",
    input_type: int = UINT8,
    batch: str | int = "batch",
    features: bool = False,
    embedding: bool = False,
    logits_type: int = FLOAT,
    logits_rank: int = 2,
    weights_file: str = "",
) -> bytes:
    """The bytes of a model file.

    `images` uint8 `[batch, height, width, 3]` -> Cast -> ReduceMean over height and width -> MatMul
    with `weights` `[3, classes]` -> `logits`. With `features` the channels-first image is the
    feature map. With `embedding` the mean colour is an output of that name. Other values of
    `input_name`, `input_type` and `batch` break the input contract, other values of `logits_type`
    and `logits_rank` (1) that of the output. With `weights_file` the weights are in that file, as
    the bytes of a float32 array.
    """
    colour = "embedding" if embedding else "colour"
    odd_logits = (logits_type, logits_rank) != (FLOAT, 2)
    nodes = [
        _node("Cast", [input_name], ["cast"], _int_attribute("to", FLOAT)),
        _node(
            "ReduceMean",
            ["cast"],
            [colour],
            _ints_attribute("axes", [1, 2]),
            _int_attribute("keepdims", 0),
        ),
        _node("MatMul", [colour, "weights"], ["scores" if odd_logits else "logits"]),
    ]
    if logits_type != FLOAT:
        nodes.append(_node("Cast", ["scores"], ["logits"], _int_attribute("to", logits_type)))
    elif odd_logits:
        axes, keep = _ints_attribute("axes", [1]), _int_attribute("keepdims", 0)
        nodes.append(_node("ReduceMax", ["scores"], ["logits"], axes, keep))
    outputs = [_value("logits", logits_type, [batch, weights.shape[1]][:logits_rank])]
    if features:
        nodes.append(
            _node("Transpose", ["cast"], ["features"], _ints_attribute("perm", [0, 3, 1, 2]))
        )
        outputs.append(_value("features", FLOAT, [batch, 3, height, width]))
    if embedding:
        outputs.append(_value("embedding", FLOAT, [batch, 3]))
    graph = b"".join(
        [
            *(_field(1, node) for node in nodes),
            _field(2, b"tiny"),
            _field(5, _tensor("weights", weights, weights_file)),
            _field(11, _value(input_name, input_type, [batch, height, width, 3])),
            *(_field(12, output) for output in outputs),
        ]
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 17))  # ir_version 8, opset 17


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _node(
    operator: str, inputs: Iterable[str], outputs: Iterable[str], *attributes: bytes
) -> bytes:
    named = [*(_field(1, name) for name in inputs), *(_field(2, name) for name in outputs)]
    return b"".join(
        [*named, _field(4, operator), *(_field(5, attribute) for attribute in attributes)]
    )


def _int_attribute(name: str, value: int) -> bytes:
    return _field(1, name) + _field(3, value) + _field(20, 2)


def _ints_attribute(name: str, values: Iterable[int]) -> bytes:
    return _field(1, name) + b"".join(_field(8, value) for value in values) + _field(20, 7)


def _tensor(name: str, array: np.ndarray, file: str = "") -> bytes:
    values = struct.pack(f"<{array.size}f", *array.astype(np.float32).ravel())
    elsewhere = _field(13, _field(1, "location") + _field(2, file)) + _field(14, _EXTERNAL)
    return (
        b"".join(_field(1, size) for size in array.shape)
        + _field(2, FLOAT)
        + _field(8, name)
        + (elsewhere if file else _field(9, values))
    )


def _value(name: str, kind: int, shape: Iterable[str | int]) -> bytes:
    dims = b"".join(_field(1, _field(2 if isinstance(size, str) else 1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, dims)))
