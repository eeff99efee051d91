"""Adds the output `embedding` to a version that was published without it. Nothing is trained."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from model_store.errors import ModelRunError
from model_store.manifest import Manifest, Outputs
from model_store.version import Version
from training.errors import ExportError
from training.gates.checks import LOGIT_TOLERANCE, scaled_difference
from training.importing.candidate import open_session
from training.importing.foreign_graph import BATCH_AXIS
from training.importing.head import find_pooled_head
from training.importing.probes import make_probes
from training.quantization.graph import read_graph
from training.steps.export import EMBEDDING


def add_embedding_output(version: Version) -> tuple[bytes, Outputs]:
    """Return the fp32 file of a version with the output `embedding`, and its outputs.

    No node is changed, so the logits stay the same bit for bit. This is checked on probe images,
    and so is embedding x weight + bias = logits.

    Raises:
        ExportError: The version has an embedding or other variants, its last layer was not found,
            or a check failed.
    """
    manifest = version.manifest
    if manifest.outputs.embedding:
        raise ExportError(f"{version} already has an embedding; nothing to do")
    if [variant.precision for variant in manifest.variants] != ["fp32"]:
        raise ExportError(
            f"{version} has variants in other precisions, which would lack the embedding. Add it "
            "to the version that they were converted from, and convert that again"
        )
    before = version.read_file(version.variant("fp32").file)
    model = read_graph(before)
    head = find_pooled_head(model.graph, manifest.outputs.logits, len(manifest.class_names))
    if isinstance(head, str):
        raise ExportError(f"{version} has no pooled features before a last layer: {head}")
    _append_output(model, head.pooled, head.weight.shape[1])
    after = model.SerializeToString(deterministic=True)
    outputs = manifest.outputs.model_copy(update={"embedding": EMBEDDING})
    _check(manifest, before, after, outputs, head.weight, head.bias)
    return after, outputs


def _append_output(model: Any, pooled: str, dims: int) -> None:
    graph = model.graph
    if EMBEDDING in {name for node in graph.node for name in (*node.input, *node.output)}:
        raise ExportError(f"the graph already has a value named {EMBEDDING}")
    flatten = helper.make_node("Flatten", [pooled], [EMBEDDING], name=EMBEDDING, axis=1)
    graph.node.append(flatten)
    graph.output.append(
        helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, [BATCH_AXIS, dims])
    )


def _check(
    manifest: Manifest,
    before: bytes,
    after: bytes,
    outputs: Outputs,
    weight: np.ndarray,
    bias: np.ndarray,
) -> None:
    probes = make_probes(manifest.input)[: manifest.max_batch_size]
    try:
        expected = open_session(before, manifest.input, manifest.outputs).run(probes)
        session = open_session(after, manifest.input, outputs)
        logits, embeddings = session.run_with_embedding(probes)
    except ModelRunError as error:
        raise ExportError(f"the graph with an embedding cannot run: {error}") from error
    if not np.array_equal(logits, expected):
        raise ExportError("the graph with an embedding returns other logits")
    difference = scaled_difference(embeddings @ weight.T + bias, logits)
    if not difference <= LOGIT_TOLERANCE:
        raise ExportError(
            f"embedding x weight + bias differ from the logits by {difference:.3g}: the value "
            "before the last layer is not an embedding"
        )
