"""Upgrades the graph of an ONNX file: opset, free batch, folded constants and batch norms.

ONNX Runtime's basic optimisations do the folding: their result uses standard operators only and
does not depend on the CPU.
"""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx import numpy_helper, shape_inference, version_converter
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from training.errors import ForeignModelError
from training.importing.affine import fold_affine
from training.importing.foreign_file import CONVERSION_ERRORS, ONNX_DOMAINS, ForeignFile
from training.importing.graph_walk import attribute, used_values
from training.importing.import_report import ImportReport
from training.steps.export import OPSET

IR_VERSION: Final = 10
OLDEST_RUNNABLE_OPSET: Final = 7
"""ONNX Runtime runs no older opset, so an older file has no reference scores of its own."""
BATCH_AXIS: Final = "batch"
_ONLY_FATAL: Final = 4


def upgrade(file: ForeignFile, report: ImportReport) -> onnx.ModelProto:
    """The file's graph with a free batch axis, in the opset of our exports or a newer one.

    Constants are not folded yet. Raises ForeignModelError if the graph cannot be converted.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(file.proto)
    graph = proto.graph
    inputs = [entry for entry in graph.input if entry.name == file.input.name]
    if extra := len(graph.input) - 1:
        report.add("weights", f"{extra} inputs", "changed", "inputs with a value became constants")
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    _make_spatial(graph, report)
    before = proto.ir_version
    # Before the conversion: below IR 4, constants must also be inputs.
    proto.ir_version = IR_VERSION
    if file.opset < OLDEST_RUNNABLE_OPSET:
        _set_batch(graph, 1)  # conversions from these opsets need every size
        proto = _convert(file, proto, OLDEST_RUNNABLE_OPSET, infer_shapes=True)
        del proto.graph.value_info[:]
    _set_batch(proto.graph, BATCH_AXIS)
    if file.opset < OPSET:
        proto = _convert(file, proto, OPSET)
    elif file.opset > OPSET:
        report.add(
            "opset", file.opset, "found", f"kept, because it is newer than our exports' {OPSET}"
        )
    if file.opset < OPSET or before < IR_VERSION:
        report.add(
            "opset",
            f"{max(OPSET, file.opset)}, IR {IR_VERSION}",
            "changed",
            f"the file has opset {file.opset}, IR {before}",
        )
    return proto


def _make_spatial(graph: onnx.GraphProto, report: ImportReport) -> None:
    """Remove `spatial=0` (MXNet) from batch norms. `foreign_file` has rejected one mean per pixel.

    The later comparison of scores shows whether the network still computes the same.
    """
    changed = 0
    for node in graph.node:
        if node.op_type != "BatchNormalization" or attribute(node, "spatial", 1) == 1:
            continue
        kept = [entry for entry in node.attribute if entry.name != "spatial"]
        del node.attribute[:]
        node.attribute.extend(kept)
        changed += 1
    if changed:
        evidence = "they have one mean per channel, so spatial=0 was removed"
        report.add("batch norms", f"{changed} with spatial=0", "changed", evidence)


def _set_batch(graph: onnx.GraphProto, batch: int | str) -> None:
    for entry in [*graph.input, *graph.output]:
        if dims := entry.type.tensor_type.shape.dim:
            dims[0].Clear()
            setattr(dims[0], "dim_param" if isinstance(batch, str) else "dim_value", batch)


def _convert(
    file: ForeignFile, proto: onnx.ModelProto, opset: int, *, infer_shapes: bool = False
) -> onnx.ModelProto:
    try:
        return version_converter.convert_version(
            shape_inference.infer_shapes(proto) if infer_shapes else proto, opset
        )
    except (*CONVERSION_ERRORS, RuntimeError, ValueError) as error:
        raise ForeignModelError(
            f"{file.path} has opset {file.opset}, which cannot be converted to {OPSET}: "
            f"{str(error).splitlines()[0]}; export it with opset {OLDEST_RUNNABLE_OPSET} to {OPSET}"
        ) from None


def fold_constants(proto: onnx.ModelProto, report: ImportReport) -> onnx.ModelProto:
    """Compute constants, and fold batch norms into convolutions.

    Raises ForeignModelError if ONNX Runtime cannot load the network.
    """
    norms = _count(proto, "BatchNormalization")
    folded = _optimise(proto)
    affine_steps = fold_affine(folded.graph)
    remaining = _count(folded, "BatchNormalization")
    if norms:
        evidence = "by ONNX Runtime's basic optimisations"
        if remaining:
            evidence += f"; {remaining} do not follow a convolution"
        report.add("batch norms", f"{norms - remaining} of {norms} folded", "changed", evidence)
    if affine_steps:
        evidence = "additions and multiplications per channel after convolutions"
        report.add("affine steps", f"{affine_steps} folded", "changed", evidence)
    _replace_sums_by_adds(folded.graph)
    return folded


def free_batch(proto: onnx.ModelProto, batch: int | None) -> bool:
    """Free the first axis of reshapes to the file's own batch, and return whether there were any.

    That axis may not be the batch. The later comparison of scores detects this.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    changed = False
    for number, node in enumerate(proto.graph.node):
        if batch is None or node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).copy()
        zero_is_empty = attribute(node, "allowzero", 0) == 1  # torch's dynamo exporter writes it
        if zero_is_empty and 0 in shape:
            continue
        if shape.ndim == 1 and len(shape) > 1 and shape[0] == batch:
            shape[0] = 0  # keep the size of the input
            if zero_is_empty:
                node.ClearField("attribute")
            name = f"free_shape_{number}"
            proto.graph.initializer.append(numpy_helper.from_array(shape.astype(np.int64), name))
            node.input[1] = name
            changed = True
    return changed


def remove_traces(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove metadata, unused constants and unused opsets, and rename nodes.

    Names of nodes and inner graphs may contain source code of the author. Names of weights stay.
    """
    model = onnx_ir.from_proto(proto)
    model = ClearMetadataAndDocStringPass()(model).model
    for number, node in enumerate(model.graph.all_nodes(), start=1):
        node.name = f"{node.op_type}_{number}"
    for branch in model.graph.subgraphs():
        branch.name = "branch"
    clean: onnx.ModelProto = onnx_ir.to_proto(model)
    used = set(used_values(clean.graph))
    kept = [tensor for tensor in clean.graph.initializer if tensor.name in used]
    del clean.graph.initializer[:], clean.graph.value_info[:], clean.metadata_props[:]
    clean.graph.initializer.extend(kept)
    domains = {"" if node.domain in ONNX_DOMAINS else node.domain for node in clean.graph.node} | {
        ""
    }
    opsets = {
        "" if entry.domain in ONNX_DOMAINS else entry.domain: entry.version
        for entry in clean.opset_import
    }
    del clean.opset_import[:]
    clean.opset_import.extend(
        onnx.helper.make_opsetid(domain, opsets[domain]) for domain in sorted(domains)
    )
    return clean


def quiet_session_options() -> onnxruntime.SessionOptions:
    """Options for one thread, without log output about models that cannot be loaded."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_FATAL
    options.intra_op_num_threads = 1
    return options


def _optimise(proto: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="import-") as folder:
        target = Path(folder) / "model.onnx"
        options = quiet_session_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no public base class
            raise ForeignModelError(
                f"ONNX Runtime cannot load the network: {str(error).splitlines()[0][:300]}; export "
                "it again"
            ) from error
        return onnx.load_model(target)


def _replace_sums_by_adds(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Sum" and len(node.input) == 2:
            node.op_type = "Add"  # equivalent, and supported by quantization


def _count(proto: onnx.ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in proto.graph.node)
