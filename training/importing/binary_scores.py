"""Turns the single Sigmoid of a two-class network into two scores."""

from collections.abc import Sequence
from dataclasses import replace

import onnx
from onnx import helper

from training.importing.foreign_file import ForeignFile, TensorInfo
from training.importing.graph_walk import GraphWalker
from training.importing.import_report import ImportReport

_PREFIX = "two_scores/"


def split_sigmoid(
    file: ForeignFile, class_names: Sequence[str], requested: str | None, report: ImportReport
) -> tuple[ForeignFile, str | None]:
    """Replace a single Sigmoid by two scores. Returns the file and its requested output.

    Both are returned unchanged if there are not two labels, or if there is no Sigmoid.

    softmax([0, z]) is [1 - sigmoid(z), sigmoid(z)], so the Sigmoid's value is the second score.
    """
    walker = GraphWalker(file.proto.graph)
    for tensor in file.outputs:
        _, node = walker.source(tensor.name)
        if (
            len(class_names) == 2
            and requested in {None, tensor.name}
            and tensor.shape is not None
            and all(size == 1 for size in tensor.shape[1:])
            and node is not None
            and node.op_type == "Sigmoid"
        ):
            report.add(
                "scores",
                f"2, of {class_names[0]} and {class_names[1]}",
                "changed",
                f"{tensor.name} is one Sigmoid, the score of the second label; the first label "
                "gets 1 minus that score",
            )
            return _with_two_scores(file, tensor, node.input[0]), _PREFIX + tensor.name
    return file, requested


def _with_two_scores(file: ForeignFile, tensor: TensorInfo, logit: str) -> ForeignFile:
    proto = onnx.ModelProto()
    proto.CopyFrom(file.proto)
    flat, zero, logits = (_PREFIX + name for name in ("flat", "zero", "logits"))
    name = _PREFIX + tensor.name
    proto.graph.node.extend(
        [
            helper.make_node("Flatten", [logit], [flat], axis=1),
            helper.make_node("Sub", [flat, flat], [zero]),
            helper.make_node("Concat", [zero, flat], [logits], axis=1),
            helper.make_node("Softmax", [logits], [name], axis=1),
        ]
    )
    batch = tensor.shape[0] if tensor.shape else None
    outputs = [
        helper.make_tensor_value_info(name, tensor.dtype, [batch, 2])
        if value.name == tensor.name
        else value
        for value in file.proto.graph.output
    ]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    infos = tuple(
        TensorInfo(name, tensor.dtype, (batch, 2)) if info == tensor else info
        for info in file.outputs
    )
    return replace(file, proto=proto, outputs=infos)
