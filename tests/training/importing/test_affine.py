"""Steps behind a convolution become part of it, and only where nobody else reads what is between."""

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_graphs import Builder, model_of
from onnx import TensorProto, helper

from training.importing.affine import fold_affine

PIXELS = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])
CHANCE = np.random.default_rng(0)
BY_CHANNEL = (1, 4, 1, 1)


def answers(model: onnx.ModelProto) -> np.ndarray:
    pixels = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"pixels": pixels})[0]


def convolution(*, bias: bool) -> Builder:
    builder = Builder("pixels")
    weights = [CHANCE.normal(size=(4, 3, 3, 3)), *([CHANCE.normal(size=4)] if bias else [])]
    builder.add("Conv", *weights, pads=[1, 1, 1, 1])
    return builder


def model(builder: Builder) -> onnx.ModelProto:
    return model_of(
        builder, [PIXELS], [helper.make_tensor_value_info(builder.value, TensorProto.FLOAT, None)]
    )


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_in_single_steps_is_folded_exactly(*, bias: bool) -> None:
    """Subtract, multiply, divide, add, a channel or one number for all: the same answers, also at the padded border."""
    builder = convolution(bias=bias)
    builder.add("Sub", CHANCE.normal(size=BY_CHANNEL))
    builder.add("Mul", CHANCE.normal(size=BY_CHANNEL[1:]))
    builder.add("Div", np.array([1.7]))
    builder.add("Add", CHANCE.normal(size=BY_CHANNEL))
    foreign = model(builder)
    expected = answers(foreign)
    assert fold_affine(foreign.graph) == 4
    assert [node.op_type for node in foreign.graph.node] == ["Conv"]
    assert np.abs(answers(foreign) - expected).max() < 1e-5


def test_the_constant_may_stand_first_where_order_does_not_matter() -> None:
    """c + x is folded; c - x is another thing, and stays."""
    builder = convolution(bias=True)
    builder.add("Add", CHANCE.normal(size=BY_CHANNEL))
    builder.nodes[-1].input[:] = builder.nodes[-1].input[::-1]
    builder.add("Sub", CHANCE.normal(size=BY_CHANNEL))
    builder.nodes[-1].input[:] = builder.nodes[-1].input[::-1]
    foreign = model(builder)
    expected = answers(foreign)
    assert fold_affine(foreign.graph) == 1
    assert [node.op_type for node in foreign.graph.node] == ["Conv", "Sub"]
    assert np.abs(answers(foreign) - expected).max() < 1e-5


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (8,), (1, 1, 8, 1)])
def test_a_step_that_depends_on_the_place_stays(shape: tuple[int, ...]) -> None:
    """A convolution has one bias a channel."""
    builder = convolution(bias=True)
    builder.add("Add", CHANCE.normal(size=shape))
    assert fold_affine(model(builder).graph) == 0


def test_what_others_read_stays() -> None:
    """A shortcut from between needs the value as it is."""
    builder = convolution(bias=True)
    between = builder.value
    builder.add("Mul", CHANCE.normal(size=BY_CHANNEL))
    builder.nodes.append(helper.make_node("Add", [between, builder.value], ["sum"]))
    builder.value = "sum"
    foreign = model(builder)
    assert fold_affine(foreign.graph) == 0
