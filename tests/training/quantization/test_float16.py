"""fp16 and bf16 files: the contract's types outside, half the bits inside."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import SIZE, chance, graph_of, images, two_layers
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from model_store.manifest import Input, Outputs
from model_store.session import Session
from model_store.version import Version
from training.errors import QuantizationError
from training.quantization.float16 import BF16_OPSET, HalfPrecision, convert
from training.run.data import RunData

KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_bytes_go_in_and_floats_come_out(digits_graph: bytes, precision: HalfPrecision) -> None:
    """Inputs and outputs are those of the fp32 file; weights are half floats, the preamble's numbers are not."""
    before, after = (
        onnx.load_model_from_string(data)
        for data in (digits_graph, convert(digits_graph, precision))
    )
    for old, new in zip(
        (*before.graph.input, *before.graph.output),
        (*after.graph.input, *after.graph.output),
        strict=True,
    ):
        assert (old.name, old.type) == (new.name, new.type)
    kinds = {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    assert {kinds[name] for name in ("multiplier", "addend")} == {TensorProto.FLOAT}
    assert Counter(kind for name, kind in kinds.items() if name.startswith("network.")) == {
        KINDS[precision]: 40
    }


def test_fp16_reads_the_digits_as_fp32(
    digits: Version, digits_graph: bytes, digits_data: RunData, tmp_path: Path
) -> None:
    """The same labels, and logits within a hundredth, in half the bytes (a CPU computes it by widening)."""
    pixels = next(digits_data.chunks(digits_data.split.test[:100]))
    path = tmp_path / "model.onnx"
    path.write_bytes(convert(digits_graph, "fp16"))
    half = Session(path, digits.manifest.input, digits.manifest.outputs).run_with_features(pixels)
    full = Session(
        digits.path("model.onnx"), digits.manifest.input, digits.manifest.outputs
    ).run_with_features(pixels)
    assert path.stat().st_size < 0.6 * len(digits_graph)
    for narrow, wide in zip(half, full, strict=True):
        assert narrow.dtype == np.float32
        assert 0 < np.abs(narrow - wide).max() < 0.02
    assert (half[0].argmax(1) == full[0].argmax(1)).all()


def test_bf16_takes_the_opset_that_knows_it(digits_graph: bytes) -> None:
    """Convolutions take bfloat16 from opset 22 on; fp16 keeps the export's."""
    opsets = [
        onnx.load_model_from_string(convert(digits_graph, name)).opset_import[0].version
        for name in ("bf16", "fp16")
    ]
    assert opsets == [BF16_OPSET, 20]


def test_bf16_answers_like_fp32_by_the_reference_evaluator() -> None:
    """No CPU kernel of ONNX Runtime has bfloat16 convolutions, so ONNX's own evaluator computes a layer that it has."""
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "weight"], ["logits"]),
    ]
    data = graph_of(nodes, {"weight": chance(SIZE * SIZE * 3, 3)})
    narrow, wide = (
        ReferenceEvaluator(onnx.load_model_from_string(file)).run(None, {"images": images(4)})[0]
        for file in (convert(data, "bf16"), data)
    )
    assert narrow.dtype == np.float32
    assert 0 < np.abs(narrow - wide).max() < 0.03 * np.abs(wide).max()


def test_a_constant_that_both_sides_take_is_kept_for_each(tmp_path: Path) -> None:
    """The preamble's number stays in fp32, and the layer behind gets it in half."""
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weight"], ["product"]),
        helper.make_node("Mul", ["product", "scale"], ["logits"]),
    ]
    data = graph_of(
        nodes, {"scale": np.array(1 / 64, np.float32), "weight": chance(SIZE * SIZE * 3, 3)}
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(convert(data, "fp16"))
    narrow = Session(path, Input(height=SIZE, width=SIZE), Outputs()).run(images(4))
    path.write_bytes(data)
    wide = Session(path, Input(height=SIZE, width=SIZE), Outputs()).run(images(4))
    assert 0 < np.abs(narrow - wide).max() < 0.01


def test_a_second_cast_to_float_inside_becomes_half() -> None:
    """What the layers widen for themselves is narrow again, so that all their types agree."""
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["again"], to=TensorProto.FLOAT, name="again"),
        helper.make_node("Add", ["again", "bias"], ["logits"]),
    ]
    model = onnx.load_model_from_string(
        convert(graph_of(nodes, {"weight": chance(SIZE * SIZE * 3, 3), "bias": chance(3)}), "fp16")
    )
    (cast,) = [node for node in model.graph.node if node.name == "again"]
    assert cast.attribute[0].i == TensorProto.FLOAT16


def test_an_operator_without_half_floats_is_refused() -> None:
    """A graph whose types do not agree is not published; the operator is named."""
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "weight"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "scale"], ["bytes"]),
        helper.make_node("DynamicQuantizeLinear", ["product"], ["dynamic", "itsscale", "zero"]),
        helper.make_node("Cast", ["bytes"], ["logits"], to=TensorProto.FLOAT),
    ]
    data = graph_of(nodes, {"weight": chance(SIZE * SIZE * 3, 3), "scale": np.array(1, np.float32)})
    with pytest.raises(
        QuantizationError, match=r"can not be computed in fp16: .*DynamicQuantizeLinear"
    ):
        convert(data, "fp16")


def test_the_small_graph_is_whole_in_both(tmp_path: Path) -> None:
    """A graph with a Gemm and unnamed nodes converts too."""
    data = two_layers([1 / 64] * 3, [-2.0] * 3)
    path = tmp_path / "model.onnx"
    path.write_bytes(convert(data, "fp16"))
    assert Session(path, Input(height=SIZE, width=SIZE), Outputs()).run(images(3)).shape == (3, 3)
    assert convert(data, "bf16") != convert(data, "fp16")
