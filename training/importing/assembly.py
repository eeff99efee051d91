"""Assembles the graph to serve: the preamble, the network, and the outputs of the contract."""

from typing import Final

import onnx
from onnx import TensorProto, helper

from model_store.manifest import Input
from training.importing.foreign_graph import BATCH_AXIS, remove_traces
from training.importing.head import PooledHead
from training.importing.input_spec import InputSpec
from training.steps.export import OUTPUT_NAMES

_PREFIX: Final = "network/"


def assemble(
    network: onnx.ModelProto,
    network_input: str,
    input_spec: InputSpec,
    model_input: Input,
    score_value: str,
    classes: int,
    head: PooledHead | None,
) -> onnx.ModelProto:
    """Build one model that maps uint8 `images` to `logits`.

    If there is a head, the model also returns `features` and `embedding`.

    Args:
        network_input: The network's own input, which the preamble computes.
        score_value: The network's value that becomes `logits`, `[batch, classes]`.
    """
    prefixed = onnx.compose.add_prefix(network, _PREFIX)  # makes names unique
    preamble, constants = input_spec.to_nodes(_PREFIX + network_input)
    logits, features, embedding = OUTPUT_NAMES
    tail = [
        helper.make_node("Flatten", [_PREFIX + score_value], ["answer/flat"], axis=1),
        helper.make_node("Cast", ["answer/flat"], [logits], to=TensorProto.FLOAT),
    ]
    outputs = [helper.make_tensor_value_info(logits, TensorProto.FLOAT, [BATCH_AXIS, classes])]
    if head is not None:
        value = _PREFIX + head.features
        if head.layout == "NHWC":
            nchw = "features/nchw"
            tail.append(helper.make_node("Transpose", [value], [nchw], perm=[0, 3, 1, 2]))
            value = nchw
        tail.append(helper.make_node("Cast", [value], [features], to=TensorProto.FLOAT))
        shape: list[int | str | None] = [BATCH_AXIS, None, None, None]
        outputs.append(helper.make_tensor_value_info(features, TensorProto.FLOAT, shape))
        tail += [
            helper.make_node("Flatten", [_PREFIX + head.pooled], ["embedding/flat"], axis=1),
            helper.make_node("Cast", ["embedding/flat"], [embedding], to=TensorProto.FLOAT),
        ]
        dims = head.weight.shape[1]
        outputs.append(
            helper.make_tensor_value_info(embedding, TensorProto.FLOAT, [BATCH_AXIS, dims])
        )
    image_shape: list[int | str | None] = [BATCH_AXIS, model_input.height, model_input.width, 3]
    graph = helper.make_graph(
        [*preamble, *prefixed.graph.node, *tail],
        "resident",
        [helper.make_tensor_value_info(model_input.name, TensorProto.UINT8, image_shape)],
        outputs,
        [*constants, *prefixed.graph.initializer],
    )
    model = helper.make_model(
        graph, opset_imports=network.opset_import, ir_version=network.ir_version
    )
    return remove_traces(model)
