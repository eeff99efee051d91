"""INT8 by static quantisation: ranges from calibration images, QDQ nodes around each layer, integer kernels at run time.

Unsigned activations and signed weights a channel are what CPUs multiply; `reduce_range` keeps weights to 7 bits, because
without VNNI the sum of two products saturates otherwise and the same file answers differently on an older CPU.
"""

import copy
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from model_store.manifest import MODEL_INPUT
from model_store.preprocessing import Pixels
from training.errors import QuantizationError
from training.quantization.graph import (
    drop_unused,
    head_of,
    layers_of,
    preamble_of,
    read_graph,
    rename_input,
)
from training.quantization.pooling import shortcuts_to_convolutions

CALIBRATION_BATCH: Final = 16
_OPERATORS: Final = sorted({*QDQRegistry, *QLinearOpsRegistry})
_MEANS: Final = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_WHOLE: Final = 1e-3  # how near a zero point must be to an integer: a thousandth of a grey level


@dataclass(frozen=True)
class Calibrated:
    """A graph with the range of each of its tensors on the calibration images; gives INT8 files of it."""

    model: Any
    ranges: Any

    def quantize(self, *, keep: Collection[str] = (), only: Collection[str] | None = None) -> bytes:
        """The INT8 file, with these layers left in fp32, or with all but `only` left so."""
        layers = layers_of(self.model)
        kept = {
            layer.name
            for layer in layers
            if layer.name in keep or (only is not None and layer.name not in only)
        }
        if len(kept) == len(layers):
            raise QuantizationError(
                "every layer would stay in fp32, so nothing is left to quantise"
            )
        preamble = preamble_of(self.model)
        last, behind = head_of(self.model)
        excluded = [
            *preamble,
            *behind,
            *(node for layer in layers if layer.name in kept for node in layer.nodes),
        ]
        nodes = (
            None
            if only is None
            else [node for layer in layers if layer.name not in kept for node in layer.nodes]
        )
        quantizer = QDQQuantizer(
            copy.deepcopy(self.model),
            True,  # noqa: FBT003  positional in ONNX Runtime
            True,  # noqa: FBT003
            QuantType.QInt8,
            QuantType.QUInt8,
            self.ranges,
            nodes or [],
            excluded,
            _OPERATORS,
            {},
        )
        quantizer.quantize_model()
        _take_bytes_as_they_come(quantizer.model.model, preamble)
        if not any(
            node.op_type in _MEANS for node in self.model.graph.node if node.name in behind
        ):  # a mean is fine of itself
            _leave_sums_fine(quantizer.model.model, last)
        quantizer.model.topological_sort()
        quantized = quantizer.model.model
        del quantized.metadata_props[:]
        onnx.checker.check_model(quantized, full_check=True)
        data: bytes = quantized.SerializeToString(deterministic=True)
        return data


def calibrate(
    data: bytes, batches: Sequence[Pixels], progress: Callable[[int, int], None] = lambda *_: None
) -> Calibrated:
    """Run these uint8 batches through the fp32 file and keep each tensor's lowest and highest value. Raises QuantizationError."""
    model = read_graph(data)
    shortcuts_to_convolutions(model)
    _give_each_layer_its_bias(model)
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        path = Path(folder) / "inferred.onnx"
        inferred = onnx.shape_inference.infer_shapes(model)
        onnx.save_model(inferred, path, save_as_external_data=True, location="weights")
        calibrator = create_calibrator(
            path,
            _OPERATORS,
            str(Path(folder) / "augmented.onnx"),
            CalibrationMethod.MinMax,
            use_external_data_format=True,
        )
        calibrator.collect_data(_Batches(batches, progress))
        return Calibrated(onnx.shape_inference.infer_shapes(model), calibrator.compute_data())


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, batches: Sequence[Pixels], progress: Callable[[int, int], None]) -> None:
        self._batches = self._counted(batches, progress)

    @staticmethod
    def _counted(
        batches: Sequence[Pixels], progress: Callable[[int, int], None]
    ) -> Iterator[Pixels]:
        total = sum(map(len, batches))
        done = 0
        for batch in batches:
            yield batch
            done += len(batch)
            progress(done, total)

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {MODEL_INPUT: batch}


def _give_each_layer_its_bias(model: Any) -> None:
    """A bias becomes int32 in its layer's own scale, so two nodes that share one (a mirrored network) each need a copy."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    seen = set()
    for node in model.graph.node:
        bias = node.input[2] if node.op_type in {"Conv", "Gemm"} and len(node.input) > 2 else ""
        if bias in seen and bias in tensors:
            own = onnx.TensorProto()
            own.CopyFrom(tensors[bias])
            own.name = f"{bias} of {node.name}"
            model.graph.initializer.append(own)
            node.input[2] = own.name
        seen.add(bias)


def _take_bytes_as_they_come(model: Any, preamble: Sequence[str]) -> None:
    """Where the preamble is (byte - whole number) x one number, bytes are quantised pixels already: it becomes their scale.

    Cast, Mul, Add, QuantizeLinear and DequantizeLinear fold into the DequantizeLinear that the first layer begins with. Other
    preambles stay as they are: a scale for each channel is no scale that the quantiser knows.
    """
    nodes = {node.name: node for node in model.graph.node}
    chain = [nodes[name] for name in preamble if name in nodes]
    if [node.op_type for node in chain] != ["Transpose", "Cast", "Mul", "Add"]:
        return
    _, cast, multiply, add = chain
    factor, addend = (_one_number(model, node.input) for node in (multiply, add))
    if factor is None or addend is None or factor <= 0:
        return
    zero = -addend / factor
    users = [node for node in model.graph.node if add.output[0] in node.input]
    if (
        abs(zero - round(zero)) > _WHOLE
        or not 0 <= round(zero) <= 255
        or [node.op_type for node in users] != ["QuantizeLinear"]
    ):
        return
    quantize = users[0]
    constants: dict[str, NDArray[Any]] = {
        "bytes scale": np.array(factor, np.float32),
        "bytes zero point": np.array(round(zero), np.uint8),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    dequantize = helper.make_node(
        "DequantizeLinear", [cast.input[0], *constants], ["pixels"], name="bytes as they come"
    )
    for node in [node for node in model.graph.node if quantize.output[0] in node.input]:
        rename_input(model, node.output[0], "pixels")
        model.graph.node.remove(node)
    for node in (cast, multiply, add, quantize):
        model.graph.node.remove(node)
    model.graph.node.append(dequantize)
    drop_unused(model)


def _leave_sums_fine(model: Any, last: Collection[str]) -> None:
    """What the last layers add up is not rounded to bytes again, so that scores stay as fine as the accumulator has them."""
    takers = {
        node.input[0]: node
        for node in model.graph.node
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}
    }
    for node in [
        node for node in model.graph.node if node.name in last and node.output[0] in takers
    ]:
        quantize = takers[node.output[0]]
        dequantize = takers[quantize.output[0]]
        node.output[0] = dequantize.output[0]
        model.graph.node.remove(quantize)
        model.graph.node.remove(dequantize)
    drop_unused(model)


def _one_number(model: Any, names: Sequence[str]) -> float | None:
    """The value of the constant among these inputs, where all its elements are the same."""
    for tensor in model.graph.initializer:
        if tensor.name in names:
            values: NDArray[Any] = numpy_helper.to_array(tensor)
            return float(values.flat[0]) if np.ptp(values) == 0 else None
    return None
