"""ONNX classifiers as other tools write them: convolution, batch norm, pooling, head."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 32
CLASSES = 5
CHANNELS = 8
LABELS = tuple(f"label-{number}" for number in range(CLASSES))
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


class Builder:
    """Nodes in a row, each reading what the last one made."""

    def __init__(self, value: str, dtype: type[np.generic] = np.float32) -> None:
        self.value = value
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, operator: str, *constants: np.ndarray, **attributes: Any) -> str:
        number = len(self.nodes)
        names = [f"{operator}_{number}_{place}" for place in range(len(constants))]
        for name, array in zip(names, constants, strict=True):
            self.constants[name] = array if array.dtype == np.int64 else array.astype(self.dtype)
        result = f"{operator}_{number}_output"
        self.nodes.append(helper.make_node(operator, [self.value, *names], [result], **attributes))
        self.value = result
        return result


def foreign_graph(  # noqa: C901, PLR0912  one branch for each way of writing the same
    *,
    layout: str = "NCHW",
    dtype: str = "float32",
    pool: str = "GlobalAveragePool",
    head: str = "Gemm",
    end: str = "",
    batch: int | str = "n",
    opset: int = 13,
    weights_as_inputs: bool = False,
    scale: float = 1.0,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build a classifier of SIZE x SIZE images; `scale` divides its inputs inside the graph."""
    chance = np.random.default_rng(seed)

    def normal(*shape: int, by: float = 1.0) -> np.ndarray:
        return chance.normal(0, by, shape)

    builder = Builder("pixels", np.float16 if dtype == "float16" else np.float32)
    if dtype == "uint8":
        builder.add("Cast", to=TensorProto.FLOAT)
    if scale != 1.0:
        builder.add("Mul", np.array([1 / scale]))
    if layout == "NHWC":
        builder.add("Transpose", perm=[0, 3, 1, 2])
    builder.add("Conv", normal(CHANNELS, 3, 3, 3, by=0.5), strides=[2, 2], pads=[1, 1, 1, 1])
    ones = np.abs(normal(CHANNELS)) + 0.5
    builder.add("BatchNormalization", ones, normal(CHANNELS), normal(CHANNELS), ones[::-1])
    builder.add("Relu")
    side = SIZE // 2
    if pool == "ReduceMean NHWC":
        builder.add("Transpose", perm=[0, 2, 3, 1])
        builder.add("ReduceMean", axes=[1, 2], keepdims=0)
    elif pool == "ReduceMean":
        builder.add("ReduceMean", axes=[2, 3], keepdims=0)
    elif pool == "AveragePool":
        builder.add("AveragePool", kernel_shape=[side, side])
    elif pool == "AveragePool of a part":
        builder.add("AveragePool", kernel_shape=[side - 2, side - 2], strides=[side, side])
    elif pool == "MaxPool":
        builder.add("MaxPool", kernel_shape=[side, side])
    elif pool == "GlobalAveragePool":
        builder.add("GlobalAveragePool")
    _add_head(
        builder,
        head,
        normal,
        1 if batch == "n" else int(batch),
        pooled=not pool.startswith("ReduceMean"),
    )
    if end == "Softmax":
        builder.add("Softmax", axis=1)
    elif end == "Flatten-Softmax-Reshape":
        builder.add("Flatten", axis=1)
        builder.add("Softmax", axis=1)
        builder.add("Reshape", np.array([-1, CLASSES], np.int64))
    elif end == "normalised by hand":
        exponentials = builder.add("Exp")
        total = builder.add("ReduceSum", np.array([1], np.int64), keepdims=1)
        builder.nodes.append(helper.make_node("Div", [exponentials, total], ["by_hand"]))
        builder.value = "by_hand"
    elif end:
        builder.add(end)
    spatial = [SIZE, SIZE]
    shape = [batch, 3, *spatial] if layout == "NCHW" else [batch, *spatial, 3]
    floats = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT
    out_shape = (
        [batch, CLASSES, 1, 1]
        if head in {"Conv", "none"} and "Reshape" not in end
        else [batch, CLASSES]
    )
    inputs = [helper.make_tensor_value_info("pixels", TYPES[dtype], shape)]
    if weights_as_inputs:
        inputs += [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in builder.constants.items()
        ]
    return model_of(
        builder,
        inputs,
        [helper.make_tensor_value_info(builder.value, floats, out_shape)],
        opset,
        3 if weights_as_inputs else 8,
    )


def _add_head(builder: Builder, head: str, normal: Any, batch: int, *, pooled: bool) -> None:
    if head == "Conv":
        builder.add("Conv", normal(CLASSES, CHANNELS, 1, 1), normal(CLASSES))
        return
    if head == "none":  # the maps are the classes' own
        gap = builder.nodes.pop()
        builder.value = gap.input[0]
        builder.add("Conv", normal(CLASSES, CHANNELS, 1, 1), normal(CLASSES))
        builder.add("GlobalAveragePool")
        return
    if head == "Reshape":
        builder.add("Reshape", np.array([batch, CHANNELS], np.int64))
    elif head == "stuck":
        builder.add("Flatten", axis=1)
        builder.add(
            "Slice", *(np.array([number], np.int64) for number in (0, 1, 0))
        )  # only the first image's
    elif pooled:
        builder.add("Flatten", axis=1)
    if head == "two layers":
        builder.add("Gemm", normal(CHANNELS, CHANNELS), normal(CHANNELS))
        builder.add("Relu")
    if head == "MatMul":
        builder.add("MatMul", normal(CHANNELS, CLASSES))
        builder.add("Add", normal(CLASSES))
    elif head == "Gemm with alpha":
        builder.add("Gemm", normal(CHANNELS, CLASSES), normal(CLASSES), alpha=0.5, beta=2.0)
    else:
        builder.add("Gemm", normal(CLASSES, CHANNELS), normal(CLASSES), transB=1)


def model_of(
    builder: Builder,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    opset: int = 13,
    ir_version: int = 8,
) -> onnx.ModelProto:
    """The model that a builder's nodes make."""
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(array), name)
        for name, array in builder.constants.items()
    ]
    graph = helper.make_graph(builder.nodes, "foreign", inputs, outputs, constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


def colour_graph(channels: str = "RGB") -> onnx.ModelProto:
    """Says which of red, green and blue an image is most of, from floats between 0 and 1, NCHW."""
    builder = Builder("pixels")
    builder.add("Conv", np.eye(3).reshape(3, 3, 1, 1))
    builder.add("GlobalAveragePool")
    builder.add("Flatten", axis=1)
    weight = np.eye(3) * 10
    builder.add(
        "Gemm", weight if channels == "RGB" else weight[:, ::-1].copy(), np.zeros(3), transB=1
    )
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])
    return model_of(
        builder,
        [pixels],
        [helper.make_tensor_value_info(builder.value, TensorProto.FLOAT, ["n", 3])],
    )


def write(folder: Path, model: onnx.ModelProto, name: str = "foreign.onnx") -> Path:
    """The model as a file."""
    path = folder / name
    onnx.save(model, path)
    return path


def write_labels(folder: Path, labels: tuple[str, ...] = LABELS) -> Path:
    """A name a line."""
    path = folder / "labels.txt"
    path.write_text("\n".join(labels) + "\n")
    return path
