"""The served graph: the preamble, the foreign network, and the contract's outputs."""

from typing import Final

import onnx
from onnx import TensorProto, helper

from model_store.manifest import Input
from training.importing.foreign_graph import BATCH, cleaned
from training.importing.head import PooledHead
from training.importing.input_spec import Convention
from training.steps.export import OUTPUT_NAMES

_PREFIX: Final = "network/"


def assemble(
    network: onnx.ModelProto,
    network_input: str,
    convention: Convention,
    shape: Input,
    answer: str,
    classes: int,
    head: PooledHead | None,
) -> onnx.ModelProto:
    """One model: uint8 `images` to `logits` (the value `answer`), and `features` where there is a head.

    Names of the network get a prefix, so that none can be taken twice.
    """
    prefixed = onnx.compose.add_prefix(network, _PREFIX)
    nodes, constants = convention.to_nodes(_PREFIX + network_input)
    logits, features = OUTPUT_NAMES
    tail = [
        helper.make_node(
            "Flatten", [_PREFIX + answer], ["answer/flat"], name="answer/flatten", axis=1
        ),
        helper.make_node(
            "Cast", ["answer/flat"], [logits], name="answer/cast", to=TensorProto.FLOAT
        ),
    ]
    outputs = [helper.make_tensor_value_info(logits, TensorProto.FLOAT, [BATCH, classes])]
    if head is not None:
        value = _PREFIX + head.features
        if head.layout == "NHWC":
            tail.append(
                helper.make_node(
                    "Transpose",
                    [value],
                    ["features/nchw"],
                    name="features/transpose",
                    perm=[0, 3, 1, 2],
                )
            )
            value = "features/nchw"
        tail.append(
            helper.make_node(
                "Cast", [value], [features], name="features/cast", to=TensorProto.FLOAT
            )
        )
        outputs.append(
            helper.make_tensor_value_info(features, TensorProto.FLOAT, [BATCH, None, None, None])
        )
    graph = helper.make_graph(
        [*nodes, *prefixed.graph.node, *tail],
        "resident",
        [
            helper.make_tensor_value_info(
                shape.name, TensorProto.UINT8, [BATCH, shape.height, shape.width, 3]
            )
        ],
        outputs,
        [*constants, *prefixed.graph.initializer],
    )
    model = helper.make_model(
        graph, opset_imports=network.opset_import, ir_version=network.ir_version
    )
    return cleaned(model)
