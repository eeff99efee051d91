"""Torch networks: the service returns what torch returns, for weights in a file."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from foreign_graphs import LABELS, write_labels
from PIL import Image
from safetensors.torch import save_file
from server_process import running
from torch import nn
from torchvision.models import get_model_weights
from torchvision.transforms import functional

from model_store.store import ModelStore
from training.__main__ import main
from training.importing.candidate import ImportCandidate
from training.importing.input_options import InputOptions
from training.importing.torch_networks import read_torchvision, read_weights_file
from training.learning.architectures import TORCHVISION_NETWORKS
from training.learning.networks import build_network
from training.learning.normalization import Normalization
from training.run.foreign_weights import read_foreign_weights
from training.run.weights import TrainedNetwork, serialise

SIDE = 64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def random_network(name: str, classes: int) -> nn.Module:
    """A network with random weights and batch norms, and logits of a moderate range."""
    torch.manual_seed(0)
    network = build_network(name, classes).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.5)
    head = network.get_submodule("fc")
    with torch.inference_mode():
        logits = network(tensor_of(pictures()))
        scale = 4 / np.ptp(logits.numpy(), axis=0).max()
        network.load_state_dict(
            {"fc.weight": head.weight * scale, "fc.bias": head.bias - logits.mean(0) * scale},
            strict=False,
        )
    return network


def import_into(folder: Path, *words: object, model: str = "m") -> Result:
    command = ["import", "--model", model, "--store", folder / "store"]
    command += ["--report", folder / "report.md"]
    return CliRunner().invoke(main, list(map(str, [*command, *words])))


def pictures() -> list[np.ndarray]:
    """Noise of three brightnesses, uint8 `[SIDE, SIDE, 3]`."""
    random = np.random.default_rng(5)
    return [random.integers(low, low + 90, (SIDE, SIDE, 3), dtype=np.uint8) for low in (0, 80, 160)]


def tensor_of(images: list[np.ndarray]) -> torch.Tensor:
    """Torchvision's transforms of images that already have the network's size."""
    return torch.stack(
        [functional.normalize(functional.to_tensor(image), MEAN, STD) for image in images]
    )


def served(store: Path, images: list[np.ndarray], classes: int) -> np.ndarray:
    """Probabilities of the real service for PNGs of these images, `[n, classes]`."""
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append({"b64": base64.b64encode(buffer.getvalue()).decode()})
    with running("--store", store) as server, server.announced().client() as client:
        response = client.post(f"/v1/models/m/predict?top_k={classes}", json={"images": encoded})
        assert response.status_code == 200, response.text
    rows = np.zeros((len(images), classes))
    for row, result in zip(rows, response.json()["results"], strict=True):
        for prediction in result["predictions"]:
            row[prediction["index"]] = prediction["score"]
    return rows


def check_served(store: Path, network: nn.Module) -> None:
    """Compare the service's probabilities with torch's own."""
    with torch.inference_mode():
        expected = network(tensor_of(pictures())).softmax(1).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3, "equal scores prove nothing"
    probabilities = served(store, pictures(), len(LABELS))
    assert np.abs(probabilities - expected).max() < 1e-4
    assert np.array_equal(probabilities.argmax(1), expected.argmax(1))


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    """A ResNet-18 for LABELS; no test changes it."""
    return random_network("resnet18", len(LABELS))


@pytest.fixture(scope="module")
def imported(resnet18: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of its import and the report; no test writes to it.

    The file is a link, as in caches, and from before torch 0.4.1: without `num_batches_tracked`.
    """
    folder = tmp_path_factory.mktemp("imported")
    state = resnet18.state_dict()
    save_file(
        {name: value for name, value in state.items() if "tracked" not in name}, folder / "blob"
    )
    (folder / "net.safetensors").symlink_to(folder / "blob")
    words = ["--weights", folder / "net.safetensors", "--arch", "resnet18", "--size", SIDE]
    words += ["--labels", write_labels(folder), "--preset", "torchvision"]
    words += ["--resize-mode", "exact", "--interpolation", "bilinear"]
    result = import_into(folder, *words)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def small_candidate(tmp_path_factory: pytest.TempPathFactory) -> ImportCandidate:
    """An import without any input options."""
    path = tmp_path_factory.mktemp("small") / "net.pth"
    torch.save(small_network().state_dict(), path)
    return read_weights_file(path, "resnet18-small", LABELS, InputOptions())


def small_network() -> nn.Module:
    return random_network("resnet18-small", len(LABELS))


def test_an_imported_network_serves_torchs_probabilities(
    resnet18: nn.Module, imported: Path
) -> None:
    check_served(imported / "store", resnet18)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "resnet152", "resnext50_32x4d", "wide_resnet50_2"])
def test_each_kind_of_residual_network_serves_torchs_probabilities(
    tmp_path: Path, name: str
) -> None:
    """The other networks differ from these only in depth and width."""
    assert name in TORCHVISION_NETWORKS
    network = random_network(name, len(LABELS))
    torch.save(network.state_dict(), tmp_path / "net.pth")
    words = ["--weights", tmp_path / "net.pth", "--arch", name, "--size", SIDE]
    words += ["--labels", write_labels(tmp_path), "--resize-mode", "exact", "--no-checkpoint"]
    result = import_into(tmp_path, *words)
    assert result.exit_code == 0, result.output
    check_served(tmp_path / "store", network)


def test_torchvisions_own_weights_bring_labels_and_transforms(tmp_path: Path) -> None:
    """With a file of the weights, nothing is downloaded."""
    torch.save(random_network("resnet18", 1000).state_dict(), tmp_path / "blob")
    path = tmp_path / "resnet18-f37072fd.pth"
    path.symlink_to(tmp_path / "blob")
    result = import_into(tmp_path, "--torchvision", "resnet18", "--weights", path)
    assert result.exit_code == 0, result.output
    weights = get_model_weights("resnet18").DEFAULT
    transforms = weights.transforms()
    with ModelStore(tmp_path / "store", builtin_root=None).open("m", 1) as version:
        manifest = version.manifest
        assert manifest.proof == "unproven"
        assert list(manifest.class_names) == weights.meta["categories"]
        spec = manifest.preprocessing
        assert spec.resize == transforms.resize_size[0]
        assert spec.crop_height == transforms.crop_size[0]
        assert spec.resize_mode == "shorter_side"
        assert spec.interpolation == transforms.interpolation.value
        assert manifest.imported is not None
        assert manifest.imported.architecture == "resnet18"
        assert manifest.checkpoint is not None


def test_a_failed_download_names_the_url_and_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user can fetch the file elsewhere and give it as --weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", fail_to_connect)
    result = import_into(tmp_path, "--torchvision", "resnet18")
    assert result.exit_code == 2
    assert "resnet18-f37072fd.pth" in result.output
    assert "--weights FILE" in result.output


def fail_to_connect(*_: Any, **__: Any) -> None:
    raise OSError("Name or service not known")


def test_everything_about_an_unknown_torchvision_file_is_assumed(tmp_path: Path) -> None:
    """The file has the name of torchvision's weights, but another sha256."""
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save(random_network("resnet18", 1000).state_dict(), path)
    candidate = read_torchvision("resnet18", path, InputOptions())
    assert candidate.imported.name == path.name
    assert candidate.report.source == f"torchvision's resnet18 ({path.name})"
    assert candidate.report.assumed == ["weights", "classes", "range", "size", "resize"]


def test_what_no_option_states_is_assumed(small_candidate: ImportCandidate) -> None:
    """Torchvision's range and resize, and the architecture's default size."""
    assert small_candidate.report.assumed == ["range", "size", "resize"]


def test_what_options_state_is_given(imported: Path) -> None:
    with ModelStore(imported / "store", builtin_root=None).open("m", 1) as version:
        assert version.manifest.imported is not None
        report = json.loads(version.path(version.manifest.imported.report).read_text())
    certainties = {entry["subject"]: entry["certainty"] for entry in report["findings"]}
    assert {certainties[subject] for subject in ("range", "size", "resize")} == {"given"}
    assert "assumed" not in certainties.values()


@pytest.mark.parametrize("name", ["BGR instead", "--preset caffe"])
def test_alternatives_include_swapped_channels(small_candidate: ImportCandidate, name: str) -> None:
    """Labelled images then show weights for BGR: mean and std are swapped with the channels."""
    assert list(small_candidate.alternatives) == [
        "BGR instead",
        "--preset caffe",
        "--preset tf",
        "--preset zero-one",
    ]
    images = np.stack(pictures())
    bgr = torch.from_numpy(images[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    if name == "BGR instead":
        values = functional.normalize(bgr / 255, MEAN[::-1], STD[::-1])
    else:
        values = functional.normalize(bgr, [103.939, 116.779, 123.68], [1, 1, 1])
    with torch.inference_mode():
        expected = small_network()(values).numpy()
    scores = small_candidate.alternatives[name](images)
    assert np.allclose(scores, expected, rtol=1e-4, atol=1e-3)


def test_the_version_of_a_torch_network_holds_its_weights(
    tmp_path: Path, resnet18: nn.Module, imported: Path
) -> None:
    """The checkpoint is a weights file of this project, which `import` accepts without --arch."""
    with ModelStore(imported / "store", builtin_root=None).open("m", 1) as version:
        assert version.manifest.checkpoint is not None
        checkpoint = version.path(version.manifest.checkpoint.file)
        weight = read_foreign_weights(checkpoint).state["fc.weight"]
        assert torch.equal(weight, resnet18.get_parameter("fc.weight"))
        words = ("--weights", checkpoint, "--labels", write_labels(tmp_path), "--size", 32)
        assert import_into(tmp_path, *words).exit_code == 0


@pytest.fixture(scope="module")
def weight_files(resnet18: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of label and weight files, most of them damaged; no test writes to it."""
    folder = tmp_path_factory.mktemp("weights")
    state = resnet18.state_dict()
    files: dict[str, object] = {
        "net.pth": state,
        "headless.pth": {name: state[name] for name in state if not name.startswith("fc")},
        "stemless.pth": {name: state[name] for name in state if name != "conv1.weight"},
        "bias.pth": {**state, "fc.bias": torch.zeros(7)},
        "flat.pth": {**state, "fc.weight": torch.tensor(1.0)},
        "nan.pth": {**state, "bn1.bias": torch.full((64,), torch.nan)},
        "numbered.pth": {1: torch.zeros(2)},
        "code.pth": resnet18,
    }
    for name, content in files.items():
        torch.save(content, folder / name)
    own = TrainedNetwork(resnet18, Normalization.imagenet(), "resnet18", len(LABELS), 1)
    (folder / "own.safetensors").write_bytes(serialise(own))
    (folder / "words.pth").write_text("words")
    write_labels(folder, LABELS[:4]).rename(folder / "four.txt")
    write_labels(folder)
    return folder


def resnet18_from(file: str, *words: str, labels: str = "labels.txt") -> tuple[str, ...]:
    return ("--weights", file, "--labels", labels, "--arch", "resnet18", *words)


def onnx_from(*words: str) -> tuple[str, ...]:
    return ("--onnx", "net.pth", "--labels", "labels.txt", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--torchvision", "vgg16"), "'vgg16'; --torchvision must be one of resnet18"),
        (("--torchvision", "resnet18", "--labels", "labels.txt"), "--labels"),
        (("--weights", "net.pth"), "--labels FILE"),
        (("--weights", "net.pth", "--labels", "labels.txt"), "--arch"),
        (("--weights", "net.pth", "--labels", "labels.txt", "--arch", "resnet34"), "resnet34"),
        (("--weights", "net.pth", "--labels", "labels.txt", "--arch", "resnet7"), "'resnet7'"),
        (resnet18_from("net.pth", "--preset", "caffe"), "got BGR"),
        (
            ("--weights", "own.safetensors", "--labels", "labels.txt", "--channels", "BGR"),
            "got BGR",
        ),
        (("--torchvision", "resnet18", "--layout", "NHWC"), "--layout is for --onnx"),
        (resnet18_from("net.pth", "--output", "x"), "--output is for --onnx"),
        (resnet18_from("net.pth", labels="four.txt"), "5 scores, but there are 4 labels"),
        (resnet18_from("words.pth"), "words.pth"),
        (resnet18_from("code.pth"), "code.pth"),
        (resnet18_from("stemless.pth"), "Missing key"),
        (
            ("--weights", "net.pth", "--labels", "labels.txt", "--arch", "resnet18-small"),
            "resnet18-small",
        ),
        (resnet18_from("bias.pth"), "bias.pth"),
        (resnet18_from("flat.pth"), "flat.pth: fc.weight"),
        (resnet18_from("numbered.pth"), "numbered.pth"),
        (resnet18_from("nan.pth", "--size", "64"), "NaN"),
        (resnet18_from("headless.pth"), "headless.pth has no fc.weight"),
        ((), "--onnx FILE, --torchvision NAME"),
        (("--onnx", "net.pth", "--torchvision", "resnet18"), "--onnx FILE, --torchvision NAME"),
        (
            ("--pretrained", "efficientnet-lite0", "--torchvision", "resnet18"),
            "--onnx FILE, --torchvision NAME",
        ),
        (("--pretrained", "efficientnet-lite0", "--labels", "labels.txt"), "--labels"),
        (("--pretrained", "efficientnet-lite0", "--arch", "resnet18"), "--arch"),
        (("--pretrained", "efficientnet-b0"), "efficientnet-lite0"),
        (onnx_from("--preset", "timm"), "--timm-config FILE"),
        (onnx_from("--size", "0"), "224x320"),
        (onnx_from("--mean", "1,2"), "'1,2'"),
    ],
)
def test_options_and_files_that_do_not_fit_are_refused(
    tmp_path: Path,
    weight_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    """The exit code is 2, without a traceback or a version."""
    monkeypatch.chdir(weight_files)
    result = import_into(tmp_path, *words)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not list((tmp_path / "store").glob("*"))
