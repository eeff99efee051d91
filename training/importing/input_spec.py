"""A network's input spec, in numpy for the reference and as ONNX nodes for the served graph.

These ONNX nodes are called the preamble.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from model_store.manifest import MODEL_INPUT
from model_store.preprocessing import Pixels

Layout = Literal["NCHW", "NHWC"]
Channels = Literal["RGB", "BGR"]
Triple = tuple[float, float, float]
DTYPES: Final[Mapping[int, type[np.generic]]] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.DOUBLE: np.float64,
    onnx.TensorProto.UINT8: np.uint8,
}
_PREFIX: Final = "preamble/"


@dataclass(frozen=True)
class PixelRange:
    """(grey level x scale - mean) / std, with mean and std in the network's channel order."""

    channels: Channels = "RGB"
    scale: float = 1.0
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)

    def __str__(self) -> str:
        mean, std = (
            ", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std)
        )
        return f"{self.channels}, (level x {self.scale:.6g} - ({mean})) / ({std})"

    def equals(self, other: "PixelRange") -> bool:
        """Whether both map pixels to the same numbers within float32 precision."""
        (own_factor, own_shift), (factor, shift) = (
            (values.scale / np.array(values.std), np.array(values.mean) / np.array(values.std))
            for values in (self, other)
        )
        return (
            self.channels == other.channels
            and np.allclose(own_factor, factor, rtol=1e-5)
            and np.allclose(own_shift, shift, rtol=1e-5)
        )


@dataclass(frozen=True)
class InputSpec:
    """The layout, element type and pixel range that a network expects.

    `dtype` is a TensorProto element type. For uint8, only the channel order of `range` is used.
    """

    layout: Layout
    dtype: int
    range: PixelRange

    def apply(self, pixels: Pixels) -> NDArray[Any]:
        """Convert uint8 RGB images `[n, h, w, 3]` to the network's input, in double precision."""
        values: NDArray[Any] = pixels[..., ::-1] if self.range.channels == "BGR" else pixels
        if self.dtype != onnx.TensorProto.UINT8:
            scaled = values * np.float64(self.range.scale)
            values = (scaled - np.array(self.range.mean)) / np.array(self.range.std)
        if self.layout == "NCHW":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values, DTYPES[self.dtype])

    def to_nodes(self, target: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Nodes and constants that compute the value `target` from the uint8 NHWC RGB input."""
        steps: list[tuple[str, NDArray[Any] | None, dict[str, Any]]] = []
        axis = 1 if self.layout == "NCHW" else 3
        if self.layout == "NCHW":  # before the cast: bytes take a quarter of the memory
            steps.append(("Transpose", None, {"perm": [0, 3, 1, 2]}))
        if self.range.channels == "BGR":
            steps.append(("Gather", np.array([2, 1, 0], np.int64), {"axis": axis}))
        if self.dtype != onnx.TensorProto.UINT8:
            std, mean = np.array(self.range.std), np.array(self.range.mean)
            shape = (1, 3, 1, 1) if axis == 1 else (1, 1, 1, 3)
            steps.append(("Cast", None, {"to": onnx.TensorProto.FLOAT}))
            for operator, values, neutral in (
                ("Mul", self.range.scale / std, 1),
                ("Add", -mean / std, 0),
            ):
                if (values != neutral).any():
                    steps.append((operator, values.reshape(shape).astype(np.float32), {}))
            if self.dtype != onnx.TensorProto.FLOAT:
                steps.append(("Cast", None, {"to": self.dtype}))
        return _chain(steps or [("Identity", None, {})], target)


def _chain(
    steps: list[tuple[str, NDArray[Any] | None, dict[str, Any]]], target: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes, constants, value = [], [], MODEL_INPUT
    for number, (operator, constant, attributes) in enumerate(steps, start=1):
        name = f"{_PREFIX}{number}_{operator}"
        result = target if number == len(steps) else f"{name}_output"
        inputs = [value]
        if constant is not None:
            constants.append(numpy_helper.from_array(constant, f"{name}_constant"))
            inputs.append(constants[-1].name)
        nodes.append(helper.make_node(operator, inputs, [result], name=name, **attributes))
        value = result
    return nodes, constants
