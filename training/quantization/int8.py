"""Static INT8 quantization: ranges from calibration images, QDQ nodes around each layer.

Activations are unsigned and weights signed per channel, as CPU kernels expect. `reduce_range`
limits weights to 7 bits. On CPUs without VNNI, the sum of two products would saturate otherwise,
and the same file would return different scores.
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
    head_of,
    layers_of,
    preamble_of,
    producers_of,
    read_graph,
    remove_unused,
    rename_input,
)
from training.quantization.pooling import replace_padded_pools
from training.steps.export import EMBEDDING

CALIBRATION_BATCH: Final = 16
_OPERATORS: Final = sorted({*QDQRegistry, *QLinearOpsRegistry})
_POOLING_OPERATORS: Final = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_ZERO_POINT_TOLERANCE: Final = 1e-3  # of a grey level


@dataclass(frozen=True)
class CalibratedGraph:
    """A graph with the range of each tensor on the calibration images."""

    model: Any
    ranges: Any

    def quantize(self, *, keep: Collection[str] = (), only: Collection[str] | None = None) -> bytes:
        """Quantize to INT8.

        Args:
            keep: Names of layers that stay in fp32.
            only: If given, all other layers stay in fp32.

        Raises:
            QuantizationError: If every layer would stay in fp32.
        """
        layers = layers_of(self.model)
        fp32_layers = {
            layer.name
            for layer in layers
            if layer.name in keep or (only is not None and layer.name not in only)
        }
        if len(fp32_layers) == len(layers):
            raise QuantizationError("every layer would stay in fp32; quantize at least one of them")
        preamble = preamble_of(self.model)
        last, after_last = head_of(self.model)
        excluded = [
            *preamble,
            *after_last,
            *(node for layer in layers if layer.name in fp32_layers for node in layer.nodes),
        ]
        nodes = (
            None
            if only is None
            else [node for layer in layers if layer.name not in fp32_layers for node in layer.nodes]
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
        _fold_preamble_into_dequantize(quantizer.model.model, preamble)
        # A mean over quantized values is precise enough.
        after_operators = {
            node.op_type for node in self.model.graph.node if node.name in after_last
        }
        if after_operators.isdisjoint(_POOLING_OPERATORS):
            _keep_float_scores(quantizer.model.model, last)
        _keep_float_embedding(quantizer.model.model)
        quantizer.model.topological_sort()
        quantized = quantizer.model.model
        del quantized.metadata_props[:]
        onnx.checker.check_model(quantized, full_check=True)
        data: bytes = quantized.SerializeToString(deterministic=True)
        return data


def calibrate(
    data: bytes, batches: Sequence[Pixels], progress: Callable[[int, int], None] = lambda *_: None
) -> CalibratedGraph:
    """Record each tensor's minimum and maximum on these uint8 batches. Raises QuantizationError."""
    model = read_graph(data)
    replace_padded_pools(model)
    _unshare_biases(model)
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
        return CalibratedGraph(onnx.shape_inference.infer_shapes(model), calibrator.compute_data())


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, batches: Sequence[Pixels], progress: Callable[[int, int], None]) -> None:
        self._batches = self._report_progress(batches, progress)

    @staticmethod
    def _report_progress(
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


def _unshare_biases(model: Any) -> None:
    """Copy shared biases, because each becomes int32 in the scale of its own layer."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    used = set()
    for node in model.graph.node:
        bias = node.input[2] if node.op_type in {"Conv", "Gemm"} and len(node.input) > 2 else ""
        if bias in used and bias in tensors:
            own = onnx.TensorProto()
            own.CopyFrom(tensors[bias])
            own.name = f"{bias} of {node.name}"
            model.graph.initializer.append(own)
            node.input[2] = own.name
        used.add(bias)


def _fold_preamble_into_dequantize(model: Any, preamble: Sequence[str]) -> None:
    """Fold a preamble of (byte - integer) x number into the first DequantizeLinear's scale.

    Cast, Mul, Add and the first QuantizeLinear are removed. A preamble with one scale per channel
    stays, because activations have a single scale.
    """
    nodes = {node.name: node for node in model.graph.node}
    chain = [nodes[name] for name in preamble if name in nodes]
    if [node.op_type for node in chain] != ["Transpose", "Cast", "Mul", "Add"]:
        return
    _, cast, multiply, add = chain
    factor, addend = (_single_constant(model, node.input) for node in (multiply, add))
    if factor is None or addend is None or factor <= 0:
        return
    zero = -addend / factor
    users = [node for node in model.graph.node if add.output[0] in node.input]
    if (
        abs(zero - round(zero)) > _ZERO_POINT_TOLERANCE
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
        "DequantizeLinear", [cast.input[0], *constants], ["pixels"], name="dequantize bytes"
    )
    for node in [node for node in model.graph.node if quantize.output[0] in node.input]:
        rename_input(model, node.output[0], "pixels")
        model.graph.node.remove(node)
    for node in (cast, multiply, add, quantize):
        model.graph.node.remove(node)
    model.graph.node.append(dequantize)
    remove_unused(model)


def _keep_float_scores(model: Any, last: Collection[str]) -> None:
    """Leave the last layers' sums unquantized, so that scores keep the accumulator's precision."""
    consumers = {
        node.input[0]: node
        for node in model.graph.node
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}
    }
    for node in [
        node for node in model.graph.node if node.name in last and node.output[0] in consumers
    ]:
        quantize = consumers[node.output[0]]
        dequantize = consumers[quantize.output[0]]
        node.output[0] = dequantize.output[0]
        model.graph.node.remove(quantize)
        model.graph.node.remove(dequantize)
    remove_unused(model)


def _keep_float_embedding(model: Any) -> None:
    """Return the embedding as it is before its quantization for the last layer.

    A mean has more precision than the 8 bits of the pixels that it averages.
    """
    producers = producers_of(model)
    node = producers.get(EMBEDDING)
    if node is not None and node.op_type == "DequantizeLinear":  # an export's pooling
        quantize = producers[node.input[0]]
        dequantized = f"{EMBEDDING} as the last layer reads it"
        rename_input(model, EMBEDDING, dequantized)
        node.output[0] = dequantized
        producers[quantize.input[0]].output[0] = EMBEDDING
        quantize.input[0] = EMBEDDING
    while node is not None and node.op_type in {"Cast", "Flatten"}:  # an import's pooling
        source = producers[node.input[0]]
        if source.op_type == "DequantizeLinear":
            node.input[0] = producers[source.input[0]].input[0]
            source = producers[node.input[0]]
        node = source


def _single_constant(model: Any, names: Sequence[str]) -> float | None:
    """The value of the one constant among these inputs; None if its elements are not all equal."""
    for tensor in model.graph.initializer:
        if tensor.name in names:
            values: NDArray[Any] = numpy_helper.to_array(tensor)
            return float(values.flat[0]) if np.ptp(values) == 0 else None
    return None
