"""A real ONNX classifier that hangs on white images, and one that also allocates without end.

Logits = mean colour x weights, after an endless Loop if all pixels are white.
"""

import struct
from collections.abc import Iterable

import numpy as np
from tiny_model import (
    _BYTES,
    FLOAT,
    INT64,
    UINT8,
    _field,
    _int_attribute,
    _ints_attribute,
    _node,
    _tensor,
    _value,
    _varint,
)

BOOL = 9
STEPS = 1e15
"""Iterations of microseconds each: the loop takes years."""
KEPT_FLOATS = 262_144.0
"""1 MiB that each iteration of a greedy model allocates and keeps."""


def slow_model_bytes(
    height: int, width: int, weights: np.ndarray, *, greedy: bool = False
) -> bytes:
    """A model with the usual input and output. A run can be terminated between loop nodes.

    A `greedy` one keeps 1 MiB of each iteration.
    """
    kept = [_value("kept", FLOAT, ["floats"])]
    keep = [
        _node("Cast", ["float_count"], ["count"], _int_attribute("to", INT64)),
        _node("ConstantOfShape", ["count"], ["kept"]),
    ]
    body = _graph(
        "body",
        [
            _node("Identity", ["condition"], ["same_condition"]),
            _node("Mul", ["scores", "one"], ["same_scores"]),
            *(keep if greedy else []),
        ],
        inputs=[
            _value("step", INT64, []),
            _value("condition", BOOL, []),
            _value("scores", FLOAT, ["batch", weights.shape[1]]),
        ],
        outputs=[
            _value("same_condition", BOOL, []),
            _value("same_scores", FLOAT, ["batch", weights.shape[1]]),
            *(kept if greedy else []),
        ],
    )
    graph = _graph(
        "slow",
        [
            _node("Cast", ["images"], ["cast"], _int_attribute("to", FLOAT)),
            _node(
                "ReduceMean",
                ["cast"],
                ["colour"],
                _ints_attribute("axes", [1, 2]),
                _int_attribute("keepdims", 0),
            ),
            _node("MatMul", ["colour", "weights"], ["scores_before"]),
            _node("ReduceMean", ["cast"], ["brightness"], _int_attribute("keepdims", 0)),
            _node("Sub", ["brightness", "nearly_white"], ["whiteness"]),
            _node("Relu", ["whiteness"], ["white"]),
            _node("Mul", ["white", "many"], ["float_steps"]),
            _node("Cast", ["float_steps"], ["steps"], _int_attribute("to", INT64)),
            _node(
                "Loop",
                ["steps", "", "scores_before"],
                ["logits", *(["all_kept"] if greedy else [])],
                _graph_attribute("body", body),
            ),
        ],
        inputs=[_value("images", UINT8, ["batch", height, width, 3])],
        outputs=[_value("logits", FLOAT, ["batch", weights.shape[1]])],
        tensors=[
            _tensor("weights", weights),
            *(_scalar(*each) for each in (("nearly_white", 254.0), ("many", STEPS), ("one", 1.0))),
            *([_tensor("float_count", np.array([KEPT_FLOATS]))] if greedy else []),
        ],
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 17))  # ir_version 8, opset 17


def _graph(
    name: str,
    nodes: Iterable[bytes],
    *,
    inputs: Iterable[bytes],
    outputs: Iterable[bytes],
    tensors: Iterable[bytes] = (),
) -> bytes:
    parts = [(1, nodes), (2, [name]), (5, tensors), (11, inputs), (12, outputs)]
    return b"".join(_field(number, part) for number, several in parts for part in several)


def _graph_attribute(name: str, graph: bytes) -> bytes:
    return _field(1, name) + _varint(6 << 3 | _BYTES) + _varint(len(graph)) + graph + _field(20, 5)


def _scalar(name: str, value: float) -> bytes:
    return _field(2, FLOAT) + _field(8, name) + _field(9, struct.pack("<f", value))
