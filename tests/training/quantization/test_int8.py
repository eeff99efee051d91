"""INT8 files: their arithmetic, their scores, and the layers that stay in fp32."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import HEADS, SIDE, images, nodes_by_operator, two_layers
from onnx import numpy_helper

from model_store.manifest import Input, Outputs
from model_store.session import Logits, Session
from model_store.store import BUILTIN_ROOT
from model_store.version import Version
from training.errors import QuantizationError
from training.quantization.graph import layers_of
from training.quantization.int8 import CalibratedGraph, calibrate
from training.run.data import RunData

SCALAR = ([1 / 64] * 3, [-2.0] * 3)
PER_CHANNEL = ([1 / 64, 1 / 60, 1 / 70], [-2.0, -1.9, -1.8])


@pytest.fixture(scope="module")
def calibrated(digits_graph: bytes, digits_data: RunData) -> CalibratedGraph:
    """The digits model, calibrated on 64 training images."""
    return calibrate(digits_graph, [next(digits_data.chunks(digits_data.split.train[:64]))])


def scores_of(
    data: bytes, folder: Path, pixels: np.ndarray, model_input: Input | None = None
) -> Logits:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return Session(path, model_input or Input(height=SIDE, width=SIDE), Outputs()).run(pixels)


def stored(data: bytes, name: str) -> np.ndarray:
    return next(
        numpy_helper.to_array(tensor)
        for tensor in onnx.load_model_from_string(data).graph.initializer
        if tensor.name == name
    )


def test_weights_have_seven_bits_and_activations_are_unsigned(
    calibrated: CalibratedGraph,
) -> None:
    """Two products of a byte and a 7-bit weight fit into 16 bits, as on CPUs without VNNI."""
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


def test_the_embedding_is_kept_in_float(
    calibrated: CalibratedGraph, digits: Version, digits_data: RunData, tmp_path: Path
) -> None:
    """It is as near to fp32's as the feature map, and gives the logits within 8 bits."""
    pixels = next(digits_data.chunks(digits_data.split.test[:50]))
    path = tmp_path / "model.onnx"
    path.write_bytes(calibrated.quantize())
    session, fp32 = (
        Session(each, digits.manifest.input, digits.manifest.outputs)
        for each in (path, digits.path("model.onnx"))
    )
    logits, embeddings = session.run_with_embedding(pixels)
    _, features = session.run_with_features(pixels)
    assert np.abs(embeddings - features.mean((2, 3))).max() < 1e-5
    assert np.abs(embeddings - fp32.run_with_embedding(pixels)[1]).mean() < 0.05
    with np.load(digits.path("classifier.npz")) as archive:
        recomputed = embeddings @ archive["weight"].T + archive["bias"]
    assert np.abs(recomputed - logits).max() < 0.1


def test_shortcuts_without_weights_are_quantized(calibrated: CalibratedGraph) -> None:
    """A pool and padded channels would take as long as a 3x3 convolution."""
    operators = nodes_by_operator(calibrated.quantize())
    assert {"AveragePool", "Pad"}.isdisjoint(operators)


def test_int8_classifies_the_digits_as_fp32(
    calibrated: CalibratedGraph, digits: Version, digits_data: RunData, tmp_path: Path
) -> None:
    """No test image changes its class, and the file has a third of the size."""
    pixels = np.concatenate(list(digits_data.chunks(digits_data.split.test)))
    data = calibrated.quantize()
    fp32 = scores_of(
        digits.path("model.onnx").read_bytes(), tmp_path, pixels, digits.manifest.input
    )
    int8 = scores_of(data, tmp_path, pixels, digits.manifest.input)
    assert (int8.argmax(1) == fp32.argmax(1)).all()
    assert 0 < np.abs(int8 - fp32).max() < 0.5
    assert len(data) < 0.35 * digits.path("model.onnx").stat().st_size


def test_quantizing_twice_gives_the_same_bytes(calibrated: CalibratedGraph) -> None:
    """Another call in between changes nothing."""
    first = calibrated.quantize()
    calibrated.quantize(only={"network.fc.weight"})
    assert calibrated.quantize() == first


@pytest.mark.parametrize(
    "options", [{"keep": {"network.conv1.weight"}}, {"only": {"network.layer2.0.conv1.weight"}}]
)
def test_chosen_layers_stay_in_fp32(
    calibrated: CalibratedGraph, options: dict[str, set[str]]
) -> None:
    """The weights of all other layers become INT8."""
    names = {
        tensor.name: tensor.data_type
        for tensor in onnx.load_model_from_string(calibrated.quantize(**options)).graph.initializer
    }
    layers = {layer.name for layer in layers_of(calibrated.model)}
    in_fp32 = options.get("keep") or layers - options["only"]
    assert {name for name in layers if names.get(name) == onnx.TensorProto.FLOAT} == in_fp32


def test_an_int8_file_without_int8_layers_is_refused(calibrated: CalibratedGraph) -> None:
    with pytest.raises(QuantizationError, match="every layer"):
        calibrated.quantize(only=())


def test_a_scalar_preamble_is_folded_into_the_input() -> None:
    """(byte - 128) / 64 is one DequantizeLinear, so nothing rounds the pixels."""
    operators = nodes_by_operator(calibrate(two_layers(*SCALAR), [images(16)]).quantize())
    assert not {"Cast", "Mul", "Add"} & set(operators)


def test_the_inputs_scale_and_zero_point_are_the_preambles(tmp_path: Path) -> None:
    """The scores are fp32's within the resolution of INT8."""
    data = two_layers(*SCALAR)
    quantized = calibrate(data, [images(64)]).quantize()
    assert stored(quantized, "bytes scale") == np.float32(1 / 64)
    assert stored(quantized, "bytes zero point") == 128
    drift = scores_of(quantized, tmp_path, images(20, seed=1)) - scores_of(
        data, tmp_path, images(20, seed=1)
    )
    assert np.abs(drift).max() < 0.02


@pytest.mark.parametrize(
    "preamble", [PER_CHANNEL, ([1 / 64] * 3, [-2.005] * 3), ([1 / 64] * 3, [1.0] * 3)]
)
def test_any_other_preamble_stays(
    preamble: tuple[Sequence[float], Sequence[float]], tmp_path: Path
) -> None:
    """A scale per channel, or a zero point that is not a grey level, cannot be folded."""
    data = two_layers(*preamble)
    quantized = calibrate(data, [images(64)]).quantize()
    assert {"Cast", "Mul", "Add"} <= set(nodes_by_operator(quantized))
    drift = scores_of(quantized, tmp_path, images(20, seed=1)) - scores_of(
        data, tmp_path, images(20, seed=1)
    )
    assert np.abs(drift).max() < 0.1


@pytest.mark.parametrize("head", HEADS)
def test_scores_are_not_rounded_to_bytes(head: str, tmp_path: Path) -> None:
    """For every head, scores have more than 256 values, close to fp32's."""
    data = two_layers(*SCALAR, head)
    quantized = calibrate(data, [images(64)]).quantize()
    pixels = images(200, seed=1)
    scores = scores_of(quantized, tmp_path, pixels)
    assert len(np.unique(scores)) > 256
    assert np.abs(scores - scores_of(data, tmp_path, pixels)).max() < 0.02


def test_a_convolution_before_a_mean_is_quantized() -> None:
    """Its sums are averaged anyway; in float, SqueezeNet would lose a quarter of its speed."""

    def consumers_of_sums(head: str) -> set[str]:
        nodes = onnx.load_model_from_string(
            calibrate(two_layers(*SCALAR, head), [images(16)]).quantize()
        ).graph.node
        (sums,) = [node.output[0] for node in nodes if node.op_type == "Conv"][-1:]
        return {node.op_type for node in nodes if sums in node.input}

    assert consumers_of_sums("convolution") == {"QuantizeLinear"}
    assert consumers_of_sums("convolution of means") == {"Flatten"}


def test_shared_biases_have_the_scale_of_their_own_layer() -> None:
    """The built-in cifar10 runs each layer twice, with two input scales."""
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
        source, weight, bias = (tensors[producers[name].input[1]] for name in node.input)
        assert np.allclose(bias, source * weight, rtol=1e-5)
