"""Export: a trained network as one ONNX file that takes uint8 pixels.

The graph contains NHWC to NCHW, one multiply and one add for the normalization, and the network
with folded batch norms. Its outputs are `logits`, `features` and `embedding`; the batch size is
dynamic.
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
from training.learning.networks import features, fold_batch_norms, pool
from training.learning.normalization import Normalization
from training.run.directory import Run
from training.run.weights import load_trained

OPSET: Final = 20
EXPORT_MAX_BATCH_SIZE: Final = 32
"""`max_batch_size` of published versions; the gates check batches up to this size."""
MODEL_FILE: Final = "model.onnx"
WEIGHTS_FILE: Final = "model.onnx.data"
"""Weights beside the graph, if one file would exceed protobuf's limit of 2 GB."""
ONE_FILE_BYTES: Final = 2**31 - 2**24
CLASSIFIER_FILE: Final = "classifier.npz"
EMBEDDING: Final = "embedding"
OUTPUT_NAMES: Final = ("logits", "features", EMBEDDING)
OUTPUTS: Final = Outputs(logits=OUTPUT_NAMES[0], features=OUTPUT_NAMES[1], embedding=EMBEDDING)


class ExportModule(nn.Module):
    """The module that is exported: normalization and network, from uint8 images.

    Args:
        network: A network of this project in evaluation mode.
        normalize: The normalization that it was trained with.
    """

    def __init__(self, network: nn.Module, normalize: Normalization) -> None:
        super().__init__()
        self.network = fold_batch_norms(network)
        # not folded into the first convolution: a folded mean is wrong at zero-padded borders
        self.register_buffer("multiplier", _broadcast_channels(1 / normalize.std))
        self.register_buffer("addend", _broadcast_channels(-normalize.mean / normalize.std))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, the last feature map, and its mean over height and width.

        Args:
            images: uint8 RGB `[batch, height, width, 3]`.

        Returns:
            float32 `[batch, classes]`, `[batch, channels, h, w]` and `[batch, channels]`.
        """
        # contiguous(): permuted strides would export the pooling as a chain of gathers
        pixels = images.permute(0, 3, 1, 2).contiguous().float()
        normalized = pixels * self.get_buffer("multiplier") + self.get_buffer("addend")
        last_map = features(self.network, normalized)
        pooled = pool(last_map)
        return self.network.get_submodule("fc")(pooled), last_map, pooled


def _broadcast_channels(values: Tensor) -> Tensor:
    """Return `[1, 3, h, w]`, where h and w are 1 for values per channel."""
    return values.expand(3, *values.shape[-2:]).unsqueeze(0).clone()


def model_input(run: Run) -> Input:
    spec = run.config.preprocessing
    return Input(height=spec.crop_height, width=spec.crop_width)


def export(run: Run) -> Path:
    """Write `model.onnx` and `classifier.npz`. Raises ExportError if the graph is wrong."""
    trained = load_trained(run)
    module = ExportModule(trained.inference_network, trained.normalize)
    graph = export_graph(module, model_input(run), run.path)
    run.write(CLASSIFIER_FILE, classifier_bytes(trained.network))
    run.write(MODEL_FILE, graph)  # last: its presence means that the export is complete
    return run.path / MODEL_FILE


def export_graph(module: ExportModule, shape: Input, folder: Path) -> bytes:
    """Return the ONNX file of a module.

    Args:
        module: The module, in any mode.
        shape: The input of the graph.
        folder: Where WEIGHTS_FILE is written if graph and weights do not fit into one file.

    Raises:
        ExportError: torch returns no graph, or `check_graph` fails.
    """
    program = torch.onnx.export(
        module.eval(),
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
    # Nodes contain stack traces with source paths, which would leak and change the digest.
    cleared = ClearMetadataAndDocStringPass()(program.model).model
    values = [value.const_value for value in cleared.graph.initializers.values()]
    (folder / WEIGHTS_FILE).unlink(missing_ok=True)
    if sum(value.nbytes for value in values if value) > ONE_FILE_BYTES:
        # small values stay in the graph: shape inference reads axes and pads
        onnx_ir.external_data.unload_from_model(
            cleared, folder, WEIGHTS_FILE, size_threshold_bytes=1024
        )
    proto: Any = onnx_ir.to_proto(cleared)
    for part in _annotated_parts(proto):  # the pass leaves torch's parameter names
        part.ClearField("metadata_props")
    graph: bytes = proto.SerializeToString(deterministic=True)
    # In this folder, because the checker reads WEIGHTS_FILE beside the graph.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{MODEL_FILE}.") as draft:
        draft.write(graph)
        draft.flush()
        check_graph(Path(draft.name), shape)
    return graph


def classifier_bytes(network: nn.Module) -> bytes:
    """Return `classifier.npz`: the last layer's `weight` and `bias`, for class-activation maps."""
    buffer = io.BytesIO()
    head = network.get_submodule("fc")
    np.savez(
        buffer,
        weight=head.get_parameter("weight").detach().numpy(),
        bias=head.get_parameter("bias").detach().numpy(),
    )
    return buffer.getvalue()


def graph_files(run: Run) -> tuple[str, ...]:
    """Return the files of the exported graph: one, or the graph and its weights."""
    return (MODEL_FILE, WEIGHTS_FILE) if run.has(WEIGHTS_FILE) else (MODEL_FILE,)


def check_graph(path: Path, shape: Input) -> None:
    """Check opset, folded norms, input, outputs and dynamic batch size. Raises ExportError."""
    onnx.checker.check_model(str(path), full_check=True)
    proto: Any = onnx.load(path, load_external_data=False)
    graph = proto.graph
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if opsets.get("") != OPSET:
        raise ExportError(f"the opset is {opsets.get('')}, expected {OPSET}")
    if unfolded := sum(node.op_type == "BatchNormalization" for node in graph.node):
        raise ExportError(f"{unfolded} batch norms were not folded")
    if any(part.doc_string or part.metadata_props for part in _annotated_parts(proto)):
        raise ExportError("the graph contains source paths or stack traces")
    for value in [*graph.input, *graph.output]:
        batch = value.type.tensor_type.shape.dim[0]
        if batch.dim_param != "batch":
            size = batch.dim_param or batch.dim_value
            raise ExportError(f"the batch size of {value.name} is {size}, expected `batch`")
    dims = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim[1:]]
    names = [value.name for value in graph.input]
    if names != [shape.name] or dims != [shape.height, shape.width, 3]:
        expected = f"{shape.name} [batch, {shape.height}, {shape.width}, 3]"
        raise ExportError(f"the input is {', '.join(names)} {dims}, expected {expected}")
    if [value.name for value in graph.output] != list(OUTPUT_NAMES):
        raise ExportError(f"the outputs are not {', '.join(OUTPUT_NAMES)}")


def _annotated_parts(proto: Any) -> Iterator[Any]:
    """Yield every part of a graph that has a `doc_string` and `metadata_props`."""
    graph = proto.graph
    yield from (proto, graph, *graph.node, *graph.initializer)
    yield from (*graph.input, *graph.output, *graph.value_info)
