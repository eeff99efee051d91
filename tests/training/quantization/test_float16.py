"""fp16 and bf16 files: uint8 in, float32 out, half precision between."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import SIDE, graph_of, images, random_weights, two_layers
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from model_store.manifest import Input, Outputs
from model_store.session import Session
from model_store.version import Version
from training.errors import QuantizationError
from training.quantization.float16 import BF16_OPSET, HalfPrecision, convert_to_half
from training.run.data import RunData

ELEMENT_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_inputs_and_outputs_keep_their_types(digits_graph: bytes, precision: HalfPrecision) -> None:
    """The weights have half precision, the preamble's constants do not."""
    before, after = (
        onnx.load_model_from_string(data)
        for data in (digits_graph, convert_to_half(digits_graph, precision))
    )
    for old, new in zip(
        (*before.graph.input, *before.graph.output),
        (*after.graph.input, *after.graph.output),
        strict=True,
    ):
        assert (old.name, old.type) == (new.name, new.type)
    types = {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    assert {types[name] for name in ("multiplier", "addend")} == {TensorProto.FLOAT}
    assert Counter(dtype for name, dtype in types.items() if name.startswith("network.")) == {
        ELEMENT_TYPES[precision]: 40
    }


def test_fp16_classifies_the_digits_as_fp32(
    digits: Version, digits_graph: bytes, digits_data: RunData, tmp_path: Path
) -> None:
    """The logits are within 0.02, in half the bytes."""
    pixels = next(digits_data.chunks(digits_data.split.test[:100]))
    path = tmp_path / "model.onnx"
    path.write_bytes(convert_to_half(digits_graph, "fp16"))
    half, full = (
        (*session.run_with_features(pixels), session.run_with_embedding(pixels)[1])
        for session in (
            Session(each, digits.manifest.input, digits.manifest.outputs)
            for each in (path, digits.path("model.onnx"))
        )
    )
    assert path.stat().st_size < 0.6 * len(digits_graph)
    for narrow, wide in zip(half, full, strict=True):
        assert narrow.dtype == np.float32
        assert 0 < np.abs(narrow - wide).max() < 0.02
    assert (half[0].argmax(1) == full[0].argmax(1)).all()


def test_bf16_needs_a_newer_opset(digits_graph: bytes) -> None:
    """Conv supports bfloat16 from opset 22 on; fp16 keeps the export's opset."""
    opsets = [
        onnx.load_model_from_string(convert_to_half(digits_graph, name)).opset_import[0].version
        for name in ("bf16", "fp16")
    ]
    assert opsets == [BF16_OPSET, 20]


def test_bf16_scores_are_close_to_fp32() -> None:
    """ONNX's reference evaluator runs it, because ONNX Runtime has no CPU kernels for bfloat16."""
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "weight"], ["logits"]),
    ]
    data = graph_of(nodes, {"weight": random_weights(SIDE * SIDE * 3, 3)})
    narrow, wide = (
        ReferenceEvaluator(onnx.load_model_from_string(file)).run(None, {"images": images(4)})[0]
        for file in (convert_to_half(data, "bf16"), data)
    )
    assert narrow.dtype == np.float32
    assert 0 < np.abs(narrow - wide).max() < 0.03 * np.abs(wide).max()


def test_a_constant_shared_with_the_preamble_is_copied(tmp_path: Path) -> None:
    """The preamble keeps it in fp32, and the layers get it in half precision."""
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weight"], ["product"]),
        helper.make_node("Mul", ["product", "scale"], ["logits"]),
    ]
    data = graph_of(
        nodes, {"scale": np.array(1 / 64, np.float32), "weight": random_weights(SIDE * SIDE * 3, 3)}
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(convert_to_half(data, "fp16"))
    narrow = Session(path, Input(height=SIDE, width=SIDE), Outputs()).run(images(4))
    path.write_bytes(data)
    wide = Session(path, Input(height=SIDE, width=SIDE), Outputs()).run(images(4))
    assert 0 < np.abs(narrow - wide).max() < 0.01


def test_a_cast_to_float_between_layers_becomes_half() -> None:
    """Otherwise the types of its consumers would not agree."""
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["again"], to=TensorProto.FLOAT, name="again"),
        helper.make_node("Add", ["again", "bias"], ["logits"]),
    ]
    model = onnx.load_model_from_string(
        convert_to_half(
            graph_of(
                nodes, {"weight": random_weights(SIDE * SIDE * 3, 3), "bias": random_weights(3)}
            ),
            "fp16",
        )
    )
    (cast,) = [node for node in model.graph.node if node.name == "again"]
    assert cast.attribute[0].i == TensorProto.FLOAT16


def test_an_operator_without_half_precision_is_refused() -> None:
    """The message names the operator."""
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "weight"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "scale"], ["bytes"]),
        helper.make_node("DynamicQuantizeLinear", ["product"], ["dynamic", "itsscale", "zero"]),
        helper.make_node("Cast", ["bytes"], ["logits"], to=TensorProto.FLOAT),
    ]
    data = graph_of(
        nodes, {"weight": random_weights(SIDE * SIDE * 3, 3), "scale": np.array(1, np.float32)}
    )
    with pytest.raises(QuantizationError, match=r"fp16: .*DynamicQuantizeLinear"):
        convert_to_half(data, "fp16")


def test_a_graph_with_unnamed_nodes_is_converted(tmp_path: Path) -> None:
    data = two_layers([1 / 64] * 3, [-2.0] * 3)
    path = tmp_path / "model.onnx"
    path.write_bytes(convert_to_half(data, "fp16"))
    assert Session(path, Input(height=SIDE, width=SIDE), Outputs()).run(images(3)).shape == (3, 3)
    assert convert_to_half(data, "bf16") != convert_to_half(data, "fp16")
