"""Files that other programs wrote: the `onnx` wheel's old networks, torch's older exporter, Keras."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from foreign_graphs import LABELS
from onnx import numpy_helper
from torchvision.models import get_model

from training.importing.candidate import Candidate, open_session
from training.importing.input_options import Expectation
from training.importing.onnx_network import read_onnx
from training.importing.presets import PRESETS
from training.importing.verification import verify

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
SIDE = 64


def expecting(preset: str) -> Expectation:
    """A preset and nothing else."""
    return Expectation(preset=PRESETS[preset], preset_name=preset)


def failed(candidate: Candidate) -> list[str]:
    """The checks that do not hold."""
    return [check.check for check in verify(candidate, None, 0).checks if not check.passed]


def with_random_weights(path: Path, target: Path) -> Path:
    """The wheel's file with weights where it has zeros, written as such files are: each weight also an input (opset 9, IR 3)."""
    model = onnx.load(path)
    graph = model.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    roles = {
        name: role
        for node in graph.node
        if node.op_type == "BatchNormalization"
        for role, name in zip("sbmv", node.input[1:], strict=True)
    }
    chance = np.random.default_rng(0)
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        name, shape = node.output[0], shapes[node.input[0]].tolist()
        if roles.get(name, "") in {"s", "v"}:
            values = chance.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            values = chance.normal(0, (1 / np.prod(shape[1:])) ** 0.5, shape)
        else:
            values = chance.normal(0, 0.1, shape)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        graph.node.remove(node)
    onnx.save(model, target)
    return target


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("squeezenet", True),
        pytest.param("resnet50", True, marks=pytest.mark.slow),
        pytest.param("inception_v1", True, marks=pytest.mark.slow),
        pytest.param("shufflenet", True, marks=pytest.mark.slow),
        pytest.param("bvlc_alexnet", False, marks=pytest.mark.slow),
    ],
)
def test_the_wheels_old_networks_are_imported(tmp_path: Path, name: str, *, features: bool) -> None:
    """Opset 9, IR 3, weights as inputs, batch 1, `Reshape` to it: batches, folded norms, and maps where there is a mean."""
    path = with_random_weights(LIGHT / f"light_{name}.onnx", tmp_path / f"{name}.onnx")
    candidate = read_onnx(path, [f"class {number}" for number in range(1000)], expecting("caffe"))
    assert candidate.max_batch_size == 32
    assert (candidate.classifier is not None) == features
    assert not failed(candidate)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v2", "densenet121"])
def test_old_networks_whose_answers_hardly_differ_prove_nothing(tmp_path: Path, name: str) -> None:
    """Under random weights these two answer all pictures alike: read, with batches and maps, and held back for that alone."""
    path = with_random_weights(LIGHT / f"light_{name}.onnx", tmp_path / f"{name}.onnx")
    candidate = read_onnx(path, [f"class {number}" for number in range(1000)], expecting("caffe"))
    assert candidate.max_batch_size == 32
    assert candidate.classifier is not None
    assert failed(candidate) == ["probe_spread"]


@pytest.mark.slow
def test_the_wheels_resnet50_as_it_lies_there_proves_nothing() -> None:
    """Its weights are all alike, and so are its answers: parity holds and the check on the spread does not."""
    candidate = read_onnx(
        LIGHT / "light_resnet50.onnx",
        [f"class {number}" for number in range(1000)],
        expecting("torchvision"),
    )
    assert "probe_spread" in failed(candidate)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"opset_version": 11},
        {"opset_version": 17, "input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}},
        {
            "opset_version": 9,
            "keep_initializers_as_inputs": True,
            "training": torch.onnx.TrainingMode.PRESERVE,
            "do_constant_folding": False,
        },
    ],
)
def test_files_of_torchs_older_exporter_are_imported(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """Fixed and free batches, norms folded by torch or left in the graph: torch's own logits."""
    torch.manual_seed(0)
    network = get_model("resnet18", num_classes=len(LABELS)).eval()
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, SIDE, SIDE),),
        str(tmp_path / "old.onnx"),
        dynamo=False,
        **options,
    )
    candidate = read_onnx(tmp_path / "old.onnx", LABELS, expecting("zero-one"))
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy()
    found = open_session(candidate.model, candidate.input, candidate.outputs).run(images)
    assert np.abs(found - expected).max() < 1e-4
    assert candidate.classifier is not None
    assert not failed(candidate)
    assert not any(
        node.op_type == "BatchNormalization"
        for node in onnx.load_model_from_string(candidate.model).graph.node
    )


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("keras") is None,
    reason="keras is not installed (pip install '.[keras-test]')",
)
def test_keras_own_export_of_its_resnet50_is_imported(tmp_path: Path) -> None:
    """NHWC, caffe's BGR, norms as single steps: Keras's own probabilities, maps for explanations, no step behind a convolution."""
    script = Path(__file__).parents[2] / "keras_export.py"
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    subprocess.run(
        [sys.executable, script, tmp_path, str(SIDE), str(len(LABELS))],
        check=True,
        env=environment,
        capture_output=True,
    )
    with np.load(tmp_path / "keras.npz") as archive:
        images, expected = archive["images"], archive["answers"]
    candidate = read_onnx(tmp_path / "keras.onnx", LABELS, expecting("caffe"))
    logits = open_session(candidate.model, candidate.input, candidate.outputs).run(images)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.ptp(expected, axis=0).max() > 0.01, "answers that are all alike would prove nothing"
    assert np.abs(exponentials / exponentials.sum(axis=1, keepdims=True) - expected).max() < 1e-4
    assert candidate.classifier is not None
    assert not failed(candidate)
    left = [node.op_type for node in onnx.load_model_from_string(candidate.model).graph.node]
    assert left.count("Conv") == 53
    assert "Mul" not in left
    assert "Sub" not in left
