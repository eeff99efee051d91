"""INT8 files: which arithmetic is in them, what they answer, and what stays in fp32."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import HEADS, SIZE, images, nodes_by_operator, two_layers
from onnx import numpy_helper

from model_store.manifest import Input, Outputs
from model_store.session import Logits, Session
from model_store.store import BUILTIN_ROOT
from model_store.version import Version
from training.errors import QuantizationError
from training.quantization.graph import layers_of
from training.quantization.int8 import Calibrated, calibrate
from training.run.data import RunData

SCALAR = ([1 / 64] * 3, [-2.0] * 3)
BY_CHANNEL = ([1 / 64, 1 / 60, 1 / 70], [-2.0, -1.9, -1.8])


@pytest.fixture(scope="module")
def calibrated(digits_graph: bytes, digits_data: RunData) -> Calibrated:
    """The digits model with ranges of 64 training images."""
    return calibrate(digits_graph, [next(digits_data.chunks(digits_data.split.train[:64]))])


def answers(
    data: bytes, folder: Path, pixels: np.ndarray, model_input: Input | None = None
) -> Logits:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return Session(path, model_input or Input(height=SIZE, width=SIZE), Outputs()).run(pixels)


def stored(data: bytes, name: str) -> np.ndarray:
    return next(
        numpy_helper.to_array(tensor)
        for tensor in onnx.load_model_from_string(data).graph.initializer
        if tensor.name == name
    )


def test_weights_are_seven_bits_a_channel_and_activations_unsigned(calibrated: Calibrated) -> None:
    """With 7 bits two products of a byte and a weight fit into 16: CPUs without VNNI answer the same."""
    data = calibrated.quantize()
    tensors = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load_model_from_string(data).graph.initializer
    }
    weights = [tensor for name, tensor in tensors.items() if name.endswith("weight_quantized")]
    assert len(weights) == 20
    assert all(
        weight.dtype == np.int8 and np.abs(weight.astype(int)).max() <= 64 for weight in weights
    )
    assert tensors["network.layer1.0.conv1.weight_scale"].shape == (16,)
    producers = nodes_by_operator(data)["QuantizeLinear"]
    assert all(tensors[node.input[2]].dtype == np.uint8 for node in producers)


def test_shortcuts_without_weights_are_in_bytes_too(calibrated: Calibrated) -> None:
    """In an INT8 file a pool and the padding of channels would cost what a 3x3 convolution does."""
    operators = nodes_by_operator(calibrated.quantize())
    assert {"AveragePool", "Pad"}.isdisjoint(operators)


def test_the_digits_are_read_as_in_fp32(
    calibrated: Calibrated, digits: Version, digits_data: RunData, tmp_path: Path
) -> None:
    """No test image changes its label, and logits drift little, in a file of a third of the size."""
    pixels = np.concatenate(list(digits_data.chunks(digits_data.split.test)))
    data = calibrated.quantize()
    fp32 = answers(digits.path("model.onnx").read_bytes(), tmp_path, pixels, digits.manifest.input)
    int8 = answers(data, tmp_path, pixels, digits.manifest.input)
    assert (int8.argmax(1) == fp32.argmax(1)).all()
    assert 0 < np.abs(int8 - fp32).max() < 0.5
    assert len(data) < 0.35 * digits.path("model.onnx").stat().st_size


def test_the_same_images_give_the_same_bytes(calibrated: Calibrated) -> None:
    """A second file differs in nothing, so a digest means something; and making one changes nothing for the next."""
    first = calibrated.quantize()
    calibrated.quantize(only={"network.fc.weight"})
    assert calibrated.quantize() == first


@pytest.mark.parametrize(
    "options", [{"keep": {"network.conv1.weight"}}, {"only": {"network.layer2.0.conv1.weight"}}]
)
def test_layers_are_left_in_fp32_as_asked(
    calibrated: Calibrated, options: dict[str, set[str]]
) -> None:
    """Their weights stay floats, those of the others become INT8."""
    names = {
        tensor.name: tensor.data_type
        for tensor in onnx.load_model_from_string(calibrated.quantize(**options)).graph.initializer
    }
    layers = {layer.name for layer in layers_of(calibrated.model)}
    in_fp32 = options.get("keep") or layers - options["only"]
    assert {name for name in layers if names.get(name) == onnx.TensorProto.FLOAT} == in_fp32


def test_nothing_left_to_quantise_is_refused(calibrated: Calibrated) -> None:
    """An INT8 file without INT8 would be a lie."""
    with pytest.raises(QuantizationError, match="nothing is left"):
        calibrated.quantize(only=())


def test_bytes_go_straight_in_where_the_preamble_is_one_number() -> None:
    """(byte - 128) / 64 is what a DequantizeLinear does: no cast, no multiplication, no rounding of pixels is left."""
    operators = nodes_by_operator(calibrate(two_layers(*SCALAR), [images(16)]).quantize())
    assert not {"Cast", "Mul", "Add"} & set(operators)


def test_the_bytes_scale_is_the_preambles(tmp_path: Path) -> None:
    """Its scale and zero point are the preamble's own, so that the answers are those of the fp32 file within INT8's steps."""
    data = two_layers(*SCALAR)
    quantized = calibrate(data, [images(64)]).quantize()
    assert stored(quantized, "bytes scale") == np.float32(1 / 64)
    assert stored(quantized, "bytes zero point") == 128
    drift = answers(quantized, tmp_path, images(20, seed=1)) - answers(
        data, tmp_path, images(20, seed=1)
    )
    assert np.abs(drift).max() < 0.02


@pytest.mark.parametrize(
    "preamble", [BY_CHANNEL, ([1 / 64] * 3, [-2.005] * 3), ([1 / 64] * 3, [1.0] * 3)]
)
def test_another_preamble_stays_as_it_is(
    preamble: tuple[Sequence[float], Sequence[float]], tmp_path: Path
) -> None:
    """Numbers by channel, a zero point between two grey levels or below black are no scale of bytes."""
    data = two_layers(*preamble)
    quantized = calibrate(data, [images(64)]).quantize()
    assert {"Cast", "Mul", "Add"} <= set(nodes_by_operator(quantized))
    drift = answers(quantized, tmp_path, images(20, seed=1)) - answers(
        data, tmp_path, images(20, seed=1)
    )
    assert np.abs(drift).max() < 0.1


@pytest.mark.parametrize("head", HEADS)
def test_scores_are_not_rounded_to_bytes(head: str, tmp_path: Path) -> None:
    """Whatever the head is, scores have more than the 256 values of a byte, and are those of the fp32 file."""
    data = two_layers(*SCALAR, head)
    quantized = calibrate(data, [images(64)]).quantize()
    pixels = images(200, seed=1)
    scores = answers(quantized, tmp_path, pixels)
    assert len(np.unique(scores)) > 256
    assert np.abs(scores - answers(data, tmp_path, pixels)).max() < 0.02


def test_a_convolution_before_the_mean_stays_in_int8() -> None:
    """Its sums are averaged anyway; in floats it would cost SqueezeNet a quarter of its speed and bring nothing."""

    def takers_of_sums(head: str) -> set[str]:
        nodes = onnx.load_model_from_string(
            calibrate(two_layers(*SCALAR, head), [images(16)]).quantize()
        ).graph.node
        (sums,) = [node.output[0] for node in nodes if node.op_type == "Conv"][-1:]
        return {node.op_type for node in nodes if sums in node.input}

    assert takers_of_sums("convolution") == {"QuantizeLinear"}
    assert takers_of_sums("convolution of means") == {"Flatten"}


def test_a_mirrored_networks_biases_are_each_in_their_own_scale() -> None:
    """The built-in cifar10 computes each layer twice; a bias in one path's scale would be wrong in the other."""
    data = (BUILTIN_ROOT / "cifar10/1/model.onnx").read_bytes()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    quantized = onnx.load_model_from_string(calibrate(data, [pixels]).quantize())
    producers = {name: node for node in quantized.graph.node for name in node.output}
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    convolutions = [
        node for node in quantized.graph.node if node.op_type == "Conv" and len(node.input) > 2
    ]
    assert len(convolutions) == 62
    for node in convolutions:
        taken, weight, bias = (tensors[producers[name].input[1]] for name in node.input)
        assert np.allclose(bias, taken * weight, rtol=1e-5)
