"""The head of a foreign network: which value holds its logits, and whether they are pooled features through one linear layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from training.errors import ForeignModelError
from training.importing.foreign_file import ForeignFile, Value
from training.importing.graph_walk import GraphWalk, attribute, axes_of
from training.importing.import_report import ImportReport
from training.importing.labels import wrong_classes
from training.importing.score_transforms import Closing, find_closing


@dataclass(frozen=True)
class Answer:
    """Where the network's answer lies: its output, the value before a closing softmax where it has one, and what closes it."""

    output: str
    before_softmax: str | None
    closing: Closing

    @property
    def logits(self) -> str:
        """The value that the version's first output is made of."""
        return self.before_softmax or self.output


@dataclass(frozen=True)
class PooledHead:
    """The value with the last feature map, its layout, and the linear layer behind its mean: `[classes, channels]`, `[classes]`.

    A network without a last layer (`own_maps`) has the classes' own maps: its layer is the identity.
    """

    features: str
    layout: Literal["NCHW", "NHWC"]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    own_maps: bool


def choose_output(
    file: ForeignFile, class_names: Sequence[str], wanted: str | None, report: ImportReport
) -> Value:
    """The output with a score for each class. Raises ForeignModelError that says what the outputs are."""
    named = [value for value in file.outputs if wanted in {None, value.name}]
    if not named:
        raise ForeignModelError(
            f"{file.path} has no output {wanted!r}; it has {'; '.join(map(str, file.outputs))}"
        )
    fitting = [
        value for value in named if _is_score(value) and _classes(value) in {len(class_names), None}
    ]
    if len(fitting) == 1:
        report.add(
            "output",
            fitting[0],
            "given" if wanted else "found",
            f"of {len(file.outputs)}: {'; '.join(map(str, file.outputs))}",
        )
        return fitting[0]
    if fitting:
        raise ForeignModelError(
            f"{file.path} has several outputs with {len(class_names)} scores: {'; '.join(map(str, fitting))}; choose one: --output"
        )
    (first, *_) = named
    if not _is_score(first) and first.dtype not in _FLOATS:
        raise ForeignModelError(
            f"{file.path}: the output {first} holds no scores but {_kind(first)}; export the network without what names its answer"
        )
    if not _is_score(first):
        raise ForeignModelError(
            f"{file.path}: the output {first} is no row of scores: it makes an image or a map, and only classifiers are served"
        )
    raise wrong_classes(file.path, _classes(first), class_names)


_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})


def _is_score(value: Value) -> bool:
    """Whether it can be `[batch, classes]`, spatial axes of one pixel allowed."""
    if value.dtype not in _FLOATS:
        return False
    return value.shape is None or (
        len(value.shape) >= 2 and sum(size != 1 for size in value.shape[1:]) <= 1
    )


def _classes(value: Value) -> int | None:
    sizes = [] if value.shape is None else [size for size in value.shape[1:] if size != 1]
    return sizes[0] if sizes else None if value.shape is None else 1


def _kind(value: Value) -> str:
    return (
        "texts"
        if value.dtype == onnx.TensorProto.STRING
        else onnx.TensorProto.DataType.Name(value.dtype).lower()
    )


def find_answer(graph: onnx.GraphProto, output: str) -> Answer:
    """Look through reshapes, scales and clips for a closing softmax.

    Raises ForeignModelError where each class is answered by itself, or what follows the softmax changes its order.
    """
    closing = find_closing(GraphWalk(graph), output)
    node = closing.node
    if node is not None and node.op_type in {"Sigmoid", "HardSigmoid"}:
        then = f" (then {closing})" if closing.steps else ""
        raise ForeignModelError(
            f"the network ends in a Sigmoid{then}: it says yes or no to each class by itself, "
            "and only one distribution over all classes is served"
        )
    if node is None or node.op_type != "Softmax":
        return Answer(output, None, closing)
    if not closing.keeps_order:
        raise ForeignModelError(
            f"what follows the closing Softmax ({closing}) changes which class comes first, so what is before it is no answer; "
            "export  the network without that"
        )
    return Answer(output, node.input[0], closing)


def find_pooled_head(graph: onnx.GraphProto, logits: str, classes: int) -> PooledHead | str:
    """The map whose mean goes through one linear layer into the logits, by the graph alone; else the reason why there is none.

    Whether it is so, numbers must say.
    """
    walk = GraphWalk(graph)
    _, node = walk.source(logits)
    weight: NDArray[Any] | None = None
    bias: NDArray[Any] | None = None
    if node is not None and node.op_type == "Add":
        constants = [walk.constant(name) for name in node.input]
        bias = next((constant for constant in constants if constant is not None), None)
        if bias is None:
            return "its answer is a sum of several branches"
        _, node = walk.source(node.input[0] if constants[0] is None else node.input[1])
    if node is not None and node.op_type in {"Gemm", "MatMul", "Conv"}:
        linear = _linear(walk, node)
        if linear is None:
            return f"the numbers of its last layer ({node.op_type}) are no constants of one matrix"
        weight, own_bias = linear
        if len(weight) != classes or (bias is not None and bias.size not in {1, classes}):
            return f"its last layer ({node.op_type}) does not make one number a class"
        bias = own_bias if bias is None else bias.reshape(-1) + own_bias
        _, node = walk.source(node.input[0])
    elif bias is not None:
        return "its last layer is none that multiplies"
    if node is None:
        return "its answer comes straight from its input"
    layout = _pooling(walk, node)
    if layout is None:
        return f"before its last layer stands {node.op_type} and no mean over a feature map"
    own_maps = weight is None
    weight, bias = (
        (np.eye(classes), np.zeros(classes)) if weight is None or bias is None else (weight, bias)
    )
    floats = [np.ascontiguousarray(array, np.float32) for array in (weight, bias)]
    return PooledHead(node.input[0], layout, floats[0], floats[1], own_maps)


def _linear(walk: GraphWalk, node: onnx.NodeProto) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Weight `[classes, channels]` and bias `[classes]` of a last layer."""
    weight = walk.constant(node.input[1])
    bias = walk.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if weight is None or (bias is None and len(node.input) > 2 and node.input[2]):
        return None
    if node.op_type == "Conv":
        if weight.shape[2:] != (1, 1) or attribute(node, "group", 1) != 1:
            return None
        weight = weight[:, :, 0, 0]
    elif weight.ndim != 2:
        return None
    elif node.op_type == "MatMul" or not attribute(node, "transB", 0):
        weight = weight.T
    if node.op_type == "Gemm":
        weight = weight * attribute(node, "alpha", 1.0)
        bias = None if bias is None else bias * attribute(node, "beta", 1.0)
    if bias is not None and bias.size not in {1, len(weight)}:
        return None
    return weight, np.zeros(len(weight), np.float32) if bias is None else np.broadcast_to(
        bias.reshape(-1), (len(weight),)
    )


def _pooling(walk: GraphWalk, node: onnx.NodeProto) -> Literal["NCHW", "NHWC"] | None:
    """The layout of the map that a node takes the mean of."""
    if node.op_type in {
        "AveragePool",
        "GlobalAveragePool",
    }:  # whether a window covers the map, numbers say
        return "NCHW"
    if node.op_type == "ReduceMean":
        axes = sorted(axis % 4 for axis in axes_of(walk, node) or [])
        return "NCHW" if axes == [2, 3] else "NHWC" if axes == [1, 2] else None
    return None
