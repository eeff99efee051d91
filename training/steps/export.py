"""Export: a trained network as one ONNX file that takes encoded images' pixels as they are.

Inside the graph: NHWC uint8 to NCHW float, one multiply and one add, the network with batch norms folded, `logits` and
`features` out, a free batch. Outside it nothing but bytes to pixels is left.
"""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from model_store.manifest import Input, Outputs
from training.errors import ExportError
from training.learning.networks import classify, features, fold_batch_norms
from training.learning.normalization import Normalization
from training.run.directory import RunDirectory
from training.run.weights import load_trained

OPSET: Final = 20
MODEL_FILE: Final = "model.onnx"
WEIGHTS_FILE: Final = "model.onnx.data"
"""Beside the graph where both do not fit into one file of 2 GB, which is protobuf's limit."""
ONE_FILE_BYTES: Final = 2**31 - 2**24
CLASSIFIER_FILE: Final = "classifier.npz"
OUTPUT_NAMES: Final = ("logits", "features")
OUTPUTS: Final = Outputs(logits=OUTPUT_NAMES[0], features=OUTPUT_NAMES[1])


class ExportModule(nn.Module):
    """The network behind the contract: uint8 `[batch, height, width, 3]` RGB to logits and the last feature map."""

    def __init__(self, network: nn.Module, normalize: Normalization) -> None:
        super().__init__()
        self.network = fold_batch_norms(network)
        # Scaling before the first convolution, not folded into it: a folded mean is wrong at zero-padded borders.
        self.register_buffer("multiplier", _for_channels(1 / normalize.std))
        self.register_buffer("addend", _for_channels(-normalize.mean / normalize.std))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[batch, classes]` and features `[batch, channels, h, w]`."""
        # contiguous(): permuted strides would export the pooling as a chain of gathers
        pixels = images.permute(0, 3, 1, 2).contiguous().float()
        last_map = features(
            self.network, pixels * self.get_buffer("multiplier") + self.get_buffer("addend")
        )
        return classify(self.network, last_map), last_map


def _for_channels(values: Tensor) -> Tensor:
    """As `[1, 3, h, w]`, with h and w 1 where the values do not depend on the place."""
    return values.expand(3, *values.shape[-2:]).unsqueeze(0).clone()


def model_input(run: RunDirectory) -> Input:
    """The input that the run's preprocessing makes."""
    spec = run.config().preprocessing
    return Input(height=spec.crop_height, width=spec.crop_width)


def export(run: RunDirectory) -> Path:
    """Write the run's `model.onnx` and `classifier.npz`. Raises ExportError where the graph is not the contract's."""
    trained = load_trained(run)
    graph = export_graph(
        ExportModule(trained.answering, trained.normalize), model_input(run), run.path
    )
    run.write(CLASSIFIER_FILE, classifier_bytes(trained.network))
    run.write(MODEL_FILE, graph)  # last: where it is, the export is whole
    return run.path / MODEL_FILE


def export_graph(served: ExportModule, shape: Input, folder: Path) -> bytes:
    """The served network as an ONNX file's bytes; weights that do not fit into it are left in the folder as WEIGHTS_FILE.

    Raises ExportError where the graph is not the contract's.
    """
    program = torch.onnx.export(
        served.eval(),
        (torch.zeros(2, shape.height, shape.width, 3, dtype=torch.uint8),),
        dynamo=True,
        opset_version=OPSET,
        input_names=[shape.name],
        output_names=list(OUTPUT_NAMES),
        dynamic_shapes=({0: "batch"},),
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch's exporter returned no graph")
    # Every node carries a stack trace with source paths: they leak, and change the file's digest from checkout to checkout.
    cleared = ClearMetadataAndDocStringPass()(program.model).model
    split = (
        sum(
            value.const_value.nbytes
            for value in cleared.graph.initializers.values()
            if value.const_value
        )
        > ONE_FILE_BYTES
    )
    (folder / WEIGHTS_FILE).unlink(missing_ok=True)
    if split:
        # what shape inference reads, axes and pads, stays in the graph
        onnx_ir.external_data.unload_from_model(
            cleared, folder, WEIGHTS_FILE, size_threshold_bytes=1024
        )
    proto: Any = onnx_ir.to_proto(cleared)
    for part in _described(proto):  # the pass leaves what torch calls its parameters
        part.ClearField("metadata_props")
    graph: bytes = proto.SerializeToString(deterministic=True)
    with tempfile.NamedTemporaryFile(
        dir=folder, prefix=f".{MODEL_FILE}."
    ) as draft:  # beside its weights, where it has them
        draft.write(graph)
        draft.flush()
        check_graph(Path(draft.name), shape)
    return graph


def classifier_bytes(network: nn.Module) -> bytes:
    """The last layer's weights as the version keeps them, for class-activation maps."""
    buffer = io.BytesIO()
    head = network.get_submodule("fc")
    np.savez(
        buffer,
        weight=head.get_parameter("weight").detach().numpy(),
        bias=head.get_parameter("bias").detach().numpy(),
    )
    return buffer.getvalue()


def graph_files(run: RunDirectory) -> tuple[str, ...]:
    """The files that the exported network lies in: one, or the graph and its weights."""
    return (MODEL_FILE, WEIGHTS_FILE) if run.has(WEIGHTS_FILE) else (MODEL_FILE,)


def check_graph(path: Path, shape: Input) -> None:
    """Hold the exported file against what was asked for. Raises ExportError that says what differs."""
    onnx.checker.check_model(str(path), full_check=True)
    proto: Any = onnx.load(path, load_external_data=False)
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if opsets.get("") != OPSET:
        raise ExportError(f"the graph has opset {opsets.get('')}, asked for was {OPSET}")
    if left := sum(node.op_type == "BatchNormalization" for node in proto.graph.node):
        raise ExportError(f"{left} batch norms were not folded")
    if any(part.doc_string or part.metadata_props for part in _described(proto)):
        raise ExportError("the graph still carries source paths or stack traces")
    for value in [*proto.graph.input, *proto.graph.output]:
        batch = value.type.tensor_type.shape.dim[0]
        if batch.dim_param != "batch":
            raise ExportError(
                f"the batch of {value.name} is {batch.dim_param or batch.dim_value}, expected a free `batch`"
            )
    dims = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    if [value.name for value in proto.graph.input] != [shape.name] or dims != [
        shape.height,
        shape.width,
        3,
    ]:
        raise ExportError(
            f"the input is not {shape.name} [batch, {shape.height}, {shape.width}, 3]"
        )
    if [value.name for value in proto.graph.output] != list(OUTPUT_NAMES):
        raise ExportError(f"the outputs are not {' and '.join(OUTPUT_NAMES)}")


def _described(proto: Any) -> Iterator[Any]:
    """Every part of a graph that has room for a text about where it comes from."""
    graph = proto.graph
    yield from (
        proto,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.input,
        *graph.output,
        *graph.value_info,
    )
