"""Bringing a foreign graph up to date: true inputs alone, a free batch, our opset, constants and batch norms folded.

ONNX Runtime's basic optimisations do the folding: they keep to ONNX's own operators and to no kind of CPU, so that the result
is a model like any other.
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
from training.importing.foreign_file import NOT_CONVERTED, ONNX_DOMAINS, ForeignFile
from training.importing.graph_walk import read_values
from training.importing.import_report import ImportReport
from training.steps.export import OPSET

IR_VERSION: Final = 10
OLDEST_RUN: Final = 7
"""ONNX Runtime computes no older opset, so of such a file there is no answer to hold the import against."""
BATCH: Final = "batch"
_ONLY_FATAL: Final = 4


def upgrade(file: ForeignFile, report: ImportReport) -> onnx.ModelProto:
    """The file's graph at our opset with a batch that is free by name; no constant is folded yet. Raises ForeignModelError."""
    proto = onnx.ModelProto()
    proto.CopyFrom(file.proto)
    graph = proto.graph
    inputs = [entry for entry in graph.input if entry.name == file.input.name]
    if extra := len(graph.input) - 1:
        report.add(
            "weights", f"{extra} inputs that have a value", "changed", "they are constants now"
        )
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    before = proto.ir_version
    proto.ir_version = (
        IR_VERSION  # before the conversion: constants that are no inputs are an error below IR 4
    )
    if file.opset < OLDEST_RUN:
        _name_batch(graph, 1)  # these old steps need to know every size
        proto = _convert(file, proto, OLDEST_RUN, knows_sizes=True)
        del proto.graph.value_info[:]
    _name_batch(proto.graph, BATCH)
    if file.opset < OPSET:
        proto = _convert(file, proto, OPSET)
    elif file.opset > OPSET:
        report.add("opset", file.opset, "found", f"newer than our own exports' {OPSET}, and kept")
    if file.opset < OPSET or before < IR_VERSION:
        report.add(
            "opset",
            f"{max(OPSET, file.opset)}, IR {IR_VERSION}",
            "changed",
            f"the file has opset {file.opset}, IR {before}",
        )
    return proto


def _name_batch(graph: onnx.GraphProto, batch: int | str) -> None:
    for entry in [*graph.input, *graph.output]:
        if dims := entry.type.tensor_type.shape.dim:
            dims[0].Clear()
            setattr(dims[0], "dim_param" if isinstance(batch, str) else "dim_value", batch)


def _convert(
    file: ForeignFile, proto: onnx.ModelProto, opset: int, *, knows_sizes: bool = False
) -> onnx.ModelProto:
    try:
        return version_converter.convert_version(
            shape_inference.infer_shapes(proto) if knows_sizes else proto, opset
        )
    except (*NOT_CONVERTED, RuntimeError, ValueError) as error:
        raise ForeignModelError(
            f"{file.path} has opset {file.opset}, and the way to {OPSET} is not known for it: {str(error).splitlines()[0]}; "
            f"export it again with opset {OLDEST_RUN} to {OPSET}"
        ) from None


def fold(proto: onnx.ModelProto, report: ImportReport) -> onnx.ModelProto:
    """The same model with constants computed, and batch norms inside convolutions. Raises ForeignModelError."""
    norms = _count(proto, "BatchNormalization")
    folded = _optimised(proto)
    folded_affine = fold_affine(folded.graph)
    left = _count(folded, "BatchNormalization")
    if norms:
        evidence = "by ONNX Runtime's basic optimisations" + (
            f"; {left} stand where there is no convolution before" if left else ""
        )
        report.add("batch norms", f"{norms - left} of {norms} folded", "changed", evidence)
    if folded_affine:
        report.add(
            "affine steps",
            f"{folded_affine} folded",
            "changed",
            "multiplications and additions a channel behind convolutions",
        )
    _sums_to_adds(folded.graph)
    return folded


def free_batch(proto: onnx.ModelProto, batch: int | None) -> bool:
    """Let reshapes take any batch that name the file's own (`batch`, mostly 1); whether there were any.

    Only numbers can say whether their first axis is the batch at all.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    changed = False
    for number, node in enumerate(proto.graph.node):
        if batch is None or node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).copy()
        if shape.ndim == 1 and len(shape) > 1 and shape[0] == batch:
            shape[0] = 0  # as it comes
            name = f"free_shape_{number}"
            proto.graph.initializer.append(numpy_helper.from_array(shape.astype(np.int64), name))
            node.input[1] = name
            changed = True
    return changed


def cleaned(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without traces of the machine that wrote it, constants that nothing uses, and opsets that no node is of.

    Nodes are called by their operator and a number: names, those of graphs within too, may be lines of someone's source.
    """
    model = onnx_ir.from_proto(proto)
    model = ClearMetadataAndDocStringPass()(model).model
    for number, node in enumerate(model.graph.all_nodes(), start=1):
        node.name = f"{node.op_type}_{number}"
    for branch in model.graph.subgraphs():
        branch.name = "branch"
    clean: onnx.ModelProto = onnx_ir.to_proto(model)
    used = set(read_values(clean.graph))
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


def quiet_options() -> onnxruntime.SessionOptions:
    """For looking at foreign files with ONNX Runtime: one thread, and no word of its own about what it can not load."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_FATAL
    options.intra_op_num_threads = 1
    return options


def _optimised(proto: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="import-") as folder:
        target = Path(folder) / "model.onnx"
        options = quiet_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no public base class
            raise ForeignModelError(
                f"ONNX Runtime can not load the network: {str(error).splitlines()[0][:300]}"
            ) from error
        return onnx.load_model(target)


def _sums_to_adds(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Sum" and len(node.input) == 2:
            node.op_type = "Add"  # the same, and quantisers know it


def _count(proto: onnx.ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in proto.graph.node)
