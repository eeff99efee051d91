"""Files of other exporters: the `onnx` wheel's old networks, torch's older exporter, Keras."""

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

from training.importing.candidate import ImportCandidate, open_session
from training.importing.input_options import InputOptions
from training.importing.onnx_network import read_onnx
from training.importing.presets import PRESETS
from training.importing.verification import verify

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
SIDE = 64


def with_preset(preset: str) -> InputOptions:
    return InputOptions(preset=PRESETS[preset], preset_name=preset)


def failed_checks(candidate: ImportCandidate) -> list[str]:
    return [check.check for check in verify(candidate, None, 0).checks if not check.passed]


def with_random_weights(path: Path, target: Path) -> Path:
    """The file with random weights instead of zeros, each weight also an input (opset 9, IR 3)."""
    model = onnx.load(path)
    graph = model.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    roles = {
        name: role
        for node in graph.node
        if node.op_type == "BatchNormalization"
        for role, name in zip("sbmv", node.input[1:], strict=True)
    }
    random = np.random.default_rng(0)
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        name, shape = node.output[0], shapes[node.input[0]].tolist()
        if roles.get(name, "") in {"s", "v"}:
            values = random.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            values = random.normal(0, (1 / np.prod(shape[1:])) ** 0.5, shape)
        else:
            values = random.normal(0, 0.1, shape)
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
    """Their batch of 1 is freed, and a pooled head gives feature maps."""
    path = with_random_weights(LIGHT / f"light_{name}.onnx", tmp_path / f"{name}.onnx")
    candidate = read_onnx(path, [f"class {number}" for number in range(1000)], with_preset("caffe"))
    assert candidate.max_batch_size == 32
    assert (candidate.classifier is not None) == features
    assert not failed_checks(candidate)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v2", "densenet121"])
def test_old_networks_with_nearly_constant_scores_fail_probe_spread(
    tmp_path: Path, name: str
) -> None:
    """With random weights, these two score all images alike."""
    path = with_random_weights(LIGHT / f"light_{name}.onnx", tmp_path / f"{name}.onnx")
    candidate = read_onnx(path, [f"class {number}" for number in range(1000)], with_preset("caffe"))
    assert candidate.max_batch_size == 32
    assert candidate.classifier is not None
    assert failed_checks(candidate) == ["probe_spread"]


@pytest.mark.slow
def test_the_wheels_resnet50_with_its_own_weights_fails_probe_spread() -> None:
    """Its weights are all equal, and so are its scores."""
    candidate = read_onnx(
        LIGHT / "light_resnet50.onnx",
        [f"class {number}" for number in range(1000)],
        with_preset("torchvision"),
    )
    assert "probe_spread" in failed_checks(candidate)


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
    """Fixed or free batch, batch norms folded or not: torch's own logits."""
    torch.manual_seed(0)
    network = get_model("resnet18", num_classes=len(LABELS)).eval()
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, SIDE, SIDE),),
        str(tmp_path / "old.onnx"),
        dynamo=False,
        **options,
    )
    candidate = read_onnx(tmp_path / "old.onnx", LABELS, with_preset("zero-one"))
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy()
    scores = open_session(candidate.model, candidate.input, candidate.outputs).run(images)
    assert np.abs(scores - expected).max() < 1e-4
    assert candidate.classifier is not None
    assert not failed_checks(candidate)
    assert not any(
        node.op_type == "BatchNormalization"
        for node in onnx.load_model_from_string(candidate.model).graph.node
    )


def dynamo_file(path: Path, batch: int) -> torch.nn.Module:
    """A network that torch's default exporter wrote with this fixed batch."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, len(LABELS)),
    ).eval()
    with torch.no_grad():
        network[4].weight.mul_(40)
    torch.onnx.export(
        network, (torch.zeros(batch, 3, SIDE, SIDE),), str(path), dynamo=True, verbose=False
    )
    return network


@pytest.mark.parametrize("batch", [1, 2])
def test_the_batch_of_torchs_default_exporter_is_freed(tmp_path: Path, batch: int) -> None:
    """It writes reshapes to the fixed batch, with allowzero=1."""
    network = dynamo_file(tmp_path / "dynamo.onnx", batch)
    reshapes = [
        node for node in onnx.load(tmp_path / "dynamo.onnx").graph.node if node.op_type == "Reshape"
    ]
    assert [node.attribute[0].name for node in reshapes] == ["allowzero"]
    candidate = read_onnx(tmp_path / "dynamo.onnx", LABELS, with_preset("zero-one"))
    assert candidate.max_batch_size == 32
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy()
    scores = open_session(candidate.model, candidate.input, candidate.outputs).run(images)
    assert np.abs(scores - expected).max() < 1e-4
    assert not failed_checks(candidate)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("keras") is None,
    reason="keras is not installed (pip install '.[keras-test]')",
)
def test_kerass_own_export_of_its_resnet50_is_imported(tmp_path: Path) -> None:
    """NHWC, BGR, batch norms in single steps: Keras's probabilities, and all steps folded."""
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
    candidate = read_onnx(tmp_path / "keras.onnx", LABELS, with_preset("caffe"))
    logits = open_session(candidate.model, candidate.input, candidate.outputs).run(images)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.ptp(expected, axis=0).max() > 0.01, "equal scores prove nothing"
    assert np.abs(exponentials / exponentials.sum(axis=1, keepdims=True) - expected).max() < 1e-4
    assert candidate.classifier is not None
    assert not failed_checks(candidate)
    operators = [node.op_type for node in onnx.load_model_from_string(candidate.model).graph.node]
    assert operators.count("Conv") == 53
    assert "Mul" not in operators
    assert "Sub" not in operators
