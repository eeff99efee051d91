"""Affine steps after a convolution are folded into it if that is exact."""

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_graphs import Builder, model_of
from onnx import TensorProto, helper

from training.importing.affine import fold_affine

PIXELS = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])
PER_CHANNEL = (1, 4, 1, 1)


def scores(model: onnx.ModelProto) -> np.ndarray:
    pixels = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"pixels": pixels})[0]


def convolution(random: np.random.Generator, *, bias: bool) -> Builder:
    builder = Builder("pixels")
    weights = [random.normal(size=(4, 3, 3, 3)), *([random.normal(size=4)] if bias else [])]
    builder.add("Conv", *weights, pads=[1, 1, 1, 1])
    return builder


def model(builder: Builder) -> onnx.ModelProto:
    return model_of(
        builder, [PIXELS], [helper.make_tensor_value_info(builder.value, TensorProto.FLOAT, None)]
    )


@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_in_single_steps_is_folded_exactly(*, bias: bool) -> None:
    """Per channel or with one number, and also at the padded border."""
    random = np.random.default_rng(0)
    builder = convolution(random, bias=bias)
    builder.add("Sub", random.normal(size=PER_CHANNEL))
    builder.add("Mul", random.normal(size=PER_CHANNEL[1:]))
    builder.add("Div", np.array([1.7]))
    builder.add("Add", random.normal(size=PER_CHANNEL))
    foreign = model(builder)
    expected = scores(foreign)
    assert fold_affine(foreign.graph) == 4
    assert [node.op_type for node in foreign.graph.node] == ["Conv"]
    assert np.abs(scores(foreign) - expected).max() < 1e-5


def test_a_constant_may_be_the_first_operand_of_an_addition() -> None:
    """c + x is folded; c - x is not."""
    random = np.random.default_rng(0)
    builder = convolution(random, bias=True)
    builder.add("Add", random.normal(size=PER_CHANNEL))
    builder.nodes[-1].input[:] = builder.nodes[-1].input[::-1]
    builder.add("Sub", random.normal(size=PER_CHANNEL))
    builder.nodes[-1].input[:] = builder.nodes[-1].input[::-1]
    foreign = model(builder)
    expected = scores(foreign)
    assert fold_affine(foreign.graph) == 1
    assert [node.op_type for node in foreign.graph.node] == ["Conv", "Sub"]
    assert np.abs(scores(foreign) - expected).max() < 1e-5


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (8,), (1, 1, 8, 1)])
def test_a_step_that_differs_between_pixels_is_not_folded(shape: tuple[int, ...]) -> None:
    """A convolution has one bias per channel."""
    random = np.random.default_rng(0)
    builder = convolution(random, bias=True)
    builder.add("Add", random.normal(size=shape))
    assert fold_affine(model(builder).graph) == 0


def test_a_convolution_with_another_user_is_not_folded() -> None:
    """A shortcut needs the value before the step."""
    random = np.random.default_rng(0)
    builder = convolution(random, bias=True)
    between = builder.value
    builder.add("Mul", random.normal(size=PER_CHANNEL))
    builder.nodes.append(helper.make_node("Add", [between, builder.value], ["sum"]))
    builder.value = "sum"
    foreign = model(builder)
    assert fold_affine(foreign.graph) == 0
