"""The head of an ONNX classifier: its scores, and its pooled linear layer if it has one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from training.errors import ForeignModelError
from training.importing.foreign_file import ForeignFile, TensorInfo
from training.importing.graph_walk import GraphWalker, attribute, axes_of
from training.importing.import_report import ImportReport
from training.importing.labels import class_count_error
from training.importing.score_transforms import ScoreTransforms, find_score_transforms

_FLOATS: Final = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
)


@dataclass(frozen=True)
class ScoreOutput:
    """The network's output, the transforms before it, and the input of a final Softmax."""

    output: str
    before_softmax: str | None
    transforms: ScoreTransforms

    @property
    def logits(self) -> str:
        """The value that the version serves as its first output."""
        return self.before_softmax or self.output


@dataclass(frozen=True)
class PooledHead:
    """The last feature map and the linear layer on its spatial mean.

    Attributes:
        features: The value with the feature map.
        pooled: The value with its spatial mean, which may keep axes of one pixel.
        weight: float32 `[classes, channels]`.
        bias: float32 `[classes]`.
        class_maps: The network has no last layer: each class has its own map, and `weight` is
            the identity.
    """

    features: str
    pooled: str
    layout: Literal["NCHW", "NHWC"]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    class_maps: bool


def choose_output(
    file: ForeignFile, class_names: Sequence[str], requested: str | None, report: ImportReport
) -> TensorInfo:
    """The output with a score for each class. Raises ForeignModelError if no single output fits."""
    listed = "; ".join(map(str, file.outputs))
    eligible = [tensor for tensor in file.outputs if requested in {None, tensor.name}]
    if not eligible:
        raise ForeignModelError(
            f"{file.path} has no output {requested!r}; --output must be one of: {listed}"
        )
    fitting = [
        tensor
        for tensor in eligible
        if _is_score(tensor) and _class_count(tensor) in {len(class_names), None}
    ]
    if len(fitting) == 1:
        certainty: Literal["given", "found"] = "given" if requested else "found"
        report.add("output", fitting[0], certainty, f"of {len(file.outputs)}: {listed}")
        return fitting[0]
    if fitting:
        raise ForeignModelError(
            f"{file.path} has several outputs with {len(class_names)} scores: "
            f"{'; '.join(map(str, fitting))}; choose one with --output"
        )
    (first, *_) = eligible
    if _is_score(first):
        raise class_count_error(file.path, _class_count(first), class_names)
    if first.dtype not in _FLOATS:
        raise ForeignModelError(
            f"{file.path}: the output {first} has element type {_type_name(first)}, expected "
            "floats; export the network without the step that turns scores into labels"
        )
    raise ForeignModelError(
        f"{file.path}: the output {first} is an image or a map, expected one score per class; "
        "only classifiers can be imported"
    )


def _is_score(tensor: TensorInfo) -> bool:
    """Whether the shape can be `[batch, classes]`, possibly with spatial axes of one pixel."""
    if tensor.dtype not in _FLOATS:
        return False
    return tensor.shape is None or (
        len(tensor.shape) >= 2 and sum(size != 1 for size in tensor.shape[1:]) <= 1
    )


def _class_count(tensor: TensorInfo) -> int | None:
    if tensor.shape is None:
        return None
    return next((size for size in tensor.shape[1:] if size != 1), 1)


def _type_name(tensor: TensorInfo) -> str:
    name: str = onnx.TensorProto.DataType.Name(tensor.dtype)
    return name.lower()


def find_score_output(graph: onnx.GraphProto, output: str) -> ScoreOutput:
    """Find a final Softmax, even if reshapes, scales and clips follow it.

    Raises ForeignModelError if the network scores each class independently (Sigmoid), or if what
    follows the Softmax changes the order of the classes.
    """
    transforms = find_score_transforms(GraphWalker(graph), output)
    node = transforms.node
    if node is not None and node.op_type in {"Sigmoid", "HardSigmoid"}:
        then = f" (then {transforms})" if transforms.steps else ""
        raise ForeignModelError(
            f"the network ends in a Sigmoid{then}: it scores each class independently, and one "
            "distribution over all classes was expected; multi-label networks cannot be imported"
        )
    if node is None or node.op_type != "Softmax":
        return ScoreOutput(output, None, transforms)
    if not transforms.preserves_order:
        raise ForeignModelError(
            f"the steps after the final Softmax ({transforms}) change which class comes first, so "
            "its input cannot be served; export the network without them"
        )
    return ScoreOutput(output, node.input[0], transforms)


def find_pooled_head(graph: onnx.GraphProto, logits: str, classes: int) -> PooledHead | str:
    """Find the feature map whose spatial mean one linear layer turns into the logits.

    Reads the graph only; the caller must check the result numerically. Returns a reason as text if
    there is no such feature map.
    """
    walker = GraphWalker(graph)
    _, node = walker.source(logits)
    weight: NDArray[Any] | None = None
    bias: NDArray[Any] | None = None
    if node is not None and node.op_type == "Add":
        constants = [walker.constant(name) for name in node.input]
        bias = next((constant for constant in constants if constant is not None), None)
        if bias is None:
            return "the logits are the sum of several branches"
        _, node = walker.source(node.input[0] if constants[0] is None else node.input[1])
    if node is not None and node.op_type in {"Gemm", "MatMul", "Conv"}:
        linear = _linear(walker, node)
        if linear is None:
            return f"the weights of the last layer ({node.op_type}) are not one constant matrix"
        weight, own_bias = linear
        if len(weight) != classes or (bias is not None and bias.size not in {1, classes}):
            return f"the last layer ({node.op_type}) does not return one number per class"
        bias = own_bias if bias is None else bias.reshape(-1) + own_bias
        _, node = walker.source(node.input[0])
    elif bias is not None:
        return "the last layer is an addition without a linear layer before it"
    if node is None:
        return "the logits are reshaped input"
    layout = _pooled_layout(walker, node)
    if layout is None:
        return f"the step before the last layer is {node.op_type}, not a mean over a feature map"
    class_maps = weight is None
    if weight is None or bias is None:
        weight, bias = np.eye(classes), np.zeros(classes)
    return PooledHead(
        node.input[0],
        node.output[0],
        layout,
        np.ascontiguousarray(weight, np.float32),
        np.ascontiguousarray(bias, np.float32),
        class_maps,
    )


def _linear(walker: GraphWalker, node: onnx.NodeProto) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Weight `[classes, channels]` and bias `[classes]` of a layer, if they are constants."""
    has_bias = len(node.input) > 2 and bool(node.input[2])
    weight = walker.constant(node.input[1])
    bias = walker.constant(node.input[2]) if has_bias else np.zeros(1, np.float32)
    if weight is None or bias is None:
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
        bias = bias * attribute(node, "beta", 1.0)
    if bias.size not in {1, len(weight)}:
        return None
    return weight, np.broadcast_to(bias.reshape(-1), (len(weight),))


def _pooled_layout(walker: GraphWalker, node: onnx.NodeProto) -> Literal["NCHW", "NHWC"] | None:
    """The layout of the feature map that a node averages; None if it does not average one."""
    # The caller's numeric check shows whether an AveragePool's window covers the whole map.
    if node.op_type in {"AveragePool", "GlobalAveragePool"}:
        return "NCHW"
    if node.op_type != "ReduceMean":
        return None
    axes = sorted(axis % 4 for axis in axes_of(walker, node) or [])
    return "NCHW" if axes == [2, 3] else "NHWC" if axes == [1, 2] else None
