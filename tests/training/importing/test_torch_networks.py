"""torchvision's residual networks: what torch answers is what the service answers, for weights in a file."""

import base64
import io
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
from training.importing.input_options import Expectation
from training.importing.presets import PRESETS
from training.importing.torch_networks import RESIDUAL, read_torchvision, read_weights_file
from training.learning.networks import build_network
from training.learning.normalization import Normalization
from training.run.initial_weights import read_state_dict
from training.run.weights import Trained, serialise

SMALL = ("resnet18", "resnet34")

SIDE = 64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def random_network(name: str, classes: int) -> nn.Module:
    """The builder's network with random weights and statistics, so that batch norms do something."""
    torch.manual_seed(0)
    network = build_network(name, classes).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.5)
    head = network.get_submodule("fc")
    with (
        torch.inference_mode()
    ):  # what depth has added up is taken out, so that no answer is 0 or 1
        logits = network(tensor_of(pictures(SIDE)))
        scale = 4 / np.ptp(logits.numpy(), axis=0).max()
        network.load_state_dict(
            {"fc.weight": head.weight * scale, "fc.bias": head.bias - logits.mean(0) * scale},
            strict=False,
        )
    return network


def import_into(folder: Path, *words: object, model: str = "m") -> Result:
    """`import` into a store in the folder."""
    command = [
        "import",
        "--model",
        model,
        "--store",
        str(folder / "store"),
        "--report",
        str(folder / "report.md"),
    ]
    return CliRunner().invoke(main, [*command, *map(str, words)])


def pictures(side: int) -> list[np.ndarray]:
    """Noise on a grey that differs, uint8 `[side, side, 3]`."""
    chance = np.random.default_rng(5)
    return [chance.integers(low, low + 90, (side, side, 3), dtype=np.uint8) for low in (0, 80, 160)]


def tensor_of(images: list[np.ndarray]) -> torch.Tensor:
    """What torchvision's transforms make of images that have the size already."""
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
        answer = client.post(f"/v1/models/m/predict?top_k={classes}", json={"images": encoded})
        assert answer.status_code == 200, answer.text
    rows = np.zeros((len(images), classes))
    for row, result in zip(rows, answer.json()["results"], strict=True):
        for prediction in result["predictions"]:
            row[prediction["index"]] = prediction["score"]
    return rows


@torch.inference_mode()
def torch_probabilities(network: nn.Module, images: list[np.ndarray]) -> np.ndarray:
    """torchvision's own way to its network's answer."""
    return network(tensor_of(images)).softmax(1).numpy()


@pytest.mark.parametrize(
    "name",
    [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in RESIDUAL],
)
def test_every_residual_builder_answers_over_http_as_torch_does(tmp_path: Path, name: str) -> None:
    """Random weights in a file, imported and served: the same probabilities."""
    network = random_network(name, len(LABELS))
    torch.save(network.state_dict(), tmp_path / "net.pth")
    words = (
        "--weights",
        tmp_path / "net.pth",
        "--arch",
        name,
        "--labels",
        write_labels(tmp_path),
        "--size",
        SIDE,
    )
    result = import_into(tmp_path, *words, "--resize-mode", "exact", "--no-checkpoint")
    assert result.exit_code == 0, result.output
    expected = torch_probabilities(network, pictures(SIDE))
    assert np.ptp(expected, axis=0).max() > 1e-3, "answers that are all alike would prove nothing"
    found = served(tmp_path / "store", pictures(SIDE), len(LABELS))
    assert np.abs(found - expected).max() < 1e-4
    assert np.array_equal(found.argmax(1), expected.argmax(1))


def test_torchvisions_own_weights_bring_labels_and_geometry(tmp_path: Path) -> None:
    """With their file at hand nothing is downloaded: its 1,000 categories, and its transforms to the letter."""
    torch.save(random_network("resnet18", 1000).state_dict(), tmp_path / "blob")
    (tmp_path / "resnet18-f37072fd.pth").symlink_to(tmp_path / "blob")
    result = import_into(
        tmp_path, "--torchvision", "resnet18", "--weights", tmp_path / "resnet18-f37072fd.pth"
    )
    assert result.exit_code == 0, result.output
    weights = get_model_weights("resnet18").DEFAULT
    transforms = weights.transforms()
    with ModelStore(tmp_path / "store", builtin_root=None).open("m", 1) as version:
        manifest = version.manifest
        assert manifest.proof == "unproven"
        assert list(manifest.class_names) == weights.meta["categories"]
        spec = manifest.preprocessing
        assert [spec.resize, spec.crop_height] == [
            transforms.resize_size[0],
            transforms.crop_size[0],
        ]
        assert (spec.resize_mode, spec.interpolation) == (
            "shorter_side",
            transforms.interpolation.value,
        )
        assert manifest.imported is not None
        assert manifest.imported.architecture == "resnet18"
        assert manifest.checkpoint is not None


def test_files_of_before_the_counters_of_batch_norm_are_taken(tmp_path: Path) -> None:
    """Torch loads them too: `num_batches_tracked` came with 0.4.1. By a link, as caches keep their files."""
    state = random_network("resnet18", len(LABELS)).state_dict()
    save_file(
        {name: value for name, value in state.items() if "tracked" not in name}, tmp_path / "blob"
    )
    (tmp_path / "old.safetensors").symlink_to(tmp_path / "blob")
    words = (
        "--weights",
        tmp_path / "old.safetensors",
        "--arch",
        "resnet18",
        "--labels",
        write_labels(tmp_path),
        "--size",
        32,
    )
    assert import_into(tmp_path, *words).exit_code == 0


def test_without_a_network_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address to fetch the file from, and the option that takes it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    result = import_into(tmp_path, "--torchvision", "resnet18")
    assert result.exit_code == 2
    assert "could not be downloaded" in result.output
    assert "resnet18-f37072fd.pth" in result.output
    assert "--weights FILE" in result.output


def refuse(*_: Any, **__: Any) -> None:
    """No network."""
    raise OSError("Name or service not known")


def test_a_file_that_is_not_torchvisions_is_said_to_be_that(tmp_path: Path) -> None:
    """Another file under the name of theirs: labels, range, size and resize of the default weights are only assumed."""
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save(random_network("resnet18", 1000).state_dict(), path)
    candidate = read_torchvision("resnet18", path, Expectation())
    assert candidate.imported.name == path.name
    assert candidate.report.source == f"torchvision's resnet18 ({path.name})"
    assert candidate.report.assumed == ["weights", "classes", "range", "size", "resize"]


def test_what_was_not_said_is_not_called_given(tmp_path: Path) -> None:
    """Range and resize of torchvision, and the size that a network is made for; what is said by flags is given."""
    torch.save(random_network("resnet18-small", len(LABELS)).state_dict(), tmp_path / "net.pth")
    silent = read_weights_file(tmp_path / "net.pth", "resnet18-small", LABELS, Expectation())
    assert silent.report.assumed == ["range", "size", "resize"]
    preset = {"preset": PRESETS["torchvision"], "preset_name": "torchvision"}
    told = read_weights_file(
        tmp_path / "net.pth", "resnet18-small", LABELS, Expectation(**preset, size=(32, 32))
    )
    assert told.report.assumed == []


def test_turned_channels_are_among_the_other_readings(tmp_path: Path) -> None:
    """So that labelled images show weights for BGR: the mean is turned with the channels. Caffe's range as well."""
    network = random_network("resnet18", len(LABELS))
    torch.save(network.state_dict(), tmp_path / "net.pth")
    candidate = read_weights_file(
        tmp_path / "net.pth", "resnet18", LABELS, Expectation(size=(SIDE, SIDE))
    )
    assert list(candidate.other_readings) == [
        "BGR instead",
        "--preset caffe",
        "--preset tf",
        "--preset zero-one",
    ]
    turned = np.stack(pictures(SIDE))[..., ::-1].copy()
    bgr = (
        torch.from_numpy(turned).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN[::-1]).view(3, 1, 1)
    ) / torch.tensor(STD[::-1]).view(3, 1, 1)
    caffe = torch.from_numpy(turned).permute(0, 3, 1, 2) - torch.tensor(
        [103.939, 116.779, 123.68]
    ).view(3, 1, 1)
    for name, floats in (("BGR instead", bgr), ("--preset caffe", caffe)):
        with torch.inference_mode():
            expected = network(floats).numpy()
        assert np.allclose(
            candidate.other_readings[name](np.stack(pictures(SIDE))), expected, rtol=1e-4, atol=1e-3
        )


def test_an_imported_network_can_be_trained_on(tmp_path: Path) -> None:
    """The version holds its weights in this project's own form, so `retrain` and `--start` take it."""
    save_file(random_network("resnet18", len(LABELS)).state_dict(), tmp_path / "net.safetensors")
    words = (
        "--weights",
        tmp_path / "net.safetensors",
        "--arch",
        "resnet18",
        "--labels",
        write_labels(tmp_path),
        "--size",
        32,
    )
    assert import_into(tmp_path, *words).exit_code == 0
    with ModelStore(tmp_path / "store", builtin_root=None).open("m", 1) as version:
        assert version.manifest.checkpoint is not None
        checkpoint = version.path(version.manifest.checkpoint.file)
        own = read_state_dict(checkpoint)
        assert torch.equal(
            own["fc.weight"], read_state_dict(tmp_path / "net.safetensors")["fc.weight"]
        )
        words = ("--weights", checkpoint, "--labels", write_labels(tmp_path), "--size", 32)
        assert import_into(tmp_path, *words, model="again").exit_code == 0, (
            "and this project's own file says what it is of"
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--torchvision", "vgg16"), "no residual classifier 'vgg16'; it has resnet18"),
        (("--torchvision", "resnet18", "--labels", "labels.txt"), "brings its own labels"),
        (("--weights", "net.pth"), "--labels FILE"),
        (("--weights", "net.pth", "--labels", "labels.txt"), "say it with --arch"),
        (
            ("--weights", "net.pth", "--labels", "labels.txt", "--arch", "resnet34"),
            "does not hold a resnet34",
        ),
        (
            ("--weights", "net.pth", "--labels", "labels.txt", "--arch", "resnet7"),
            "there is no architecture 'resnet7'",
        ),
        (
            (
                "--weights",
                "net.pth",
                "--labels",
                "labels.txt",
                "--arch",
                "resnet18",
                "--preset",
                "caffe",
            ),
            "RGB",
        ),
        (
            ("--weights", "own.safetensors", "--labels", "labels.txt", "--channels", "BGR"),
            "as of a network for RGB",
        ),
        (("--torchvision", "resnet18", "--layout", "NHWC"), "--layout belongs to --onnx"),
        (
            ("--weights", "net.pth", "--labels", "labels.txt", "--output", "x"),
            "--output belongs to --onnx",
        ),
        (
            ("--weights", "net.pth", "--labels", "four.txt", "--arch", "resnet18"),
            "answers with 5 scores, the labels name 4 classes",
        ),
        (
            ("--weights", "words.pth", "--labels", "labels.txt", "--arch", "resnet18"),
            "can not be read as weights",
        ),
        (
            ("--weights", "code.pth", "--labels", "labels.txt", "--arch", "resnet18"),
            "only tensors are loaded, never code",
        ),
        (
            ("--weights", "stemless.pth", "--labels", "labels.txt", "--arch", "resnet18"),
            "does not hold a resnet18: Missing key",
        ),
        (
            ("--weights", "net.pth", "--labels", "labels.txt", "--arch", "resnet18-small"),
            "does not hold a resnet18-small",
        ),
        (
            ("--weights", "bias.pth", "--labels", "labels.txt", "--arch", "resnet18"),
            "does not hold a resnet18",
        ),
        (
            ("--weights", "flat.pth", "--labels", "labels.txt", "--arch", "resnet18"),
            "fc.weight is no matrix",
        ),
        (
            ("--weights", "numbered.pth", "--labels", "labels.txt", "--arch", "resnet18"),
            "does not hold a state dict",
        ),
        (
            ("--weights", "hello.pth", "--labels", "labels.txt", "--arch", "resnet18"),
            "can not be read as weights",
        ),
        (
            (
                "--weights",
                "nan.pth",
                "--labels",
                "labels.txt",
                "--arch",
                "resnet18",
                "--size",
                "64",
            ),
            "NaN or infinity",
        ),
        (
            ("--weights", "headless.pth", "--labels", "labels.txt", "--arch", "resnet18"),
            "has no fc.weight",
        ),
        ((), "give one of --onnx"),
        (("--onnx", "net.pth", "--torchvision", "resnet18"), "give one of --onnx"),
        (("--onnx", "net.pth", "--labels", "labels.txt", "--preset", "timm"), "--timm-config FILE"),
        (("--onnx", "net.pth", "--labels", "labels.txt", "--size", "0"), "is no size"),
        (("--onnx", "net.pth", "--labels", "labels.txt", "--mean", "1,2"), "one number or three"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    """Exit code 2 with what was expected, no traceback, no version."""
    monkeypatch.chdir(tmp_path)
    network = random_network("resnet18", len(LABELS))
    torch.save(network.state_dict(), "net.pth")
    torch.save(
        {name: value for name, value in network.state_dict().items() if not name.startswith("fc")},
        "headless.pth",
    )
    state = network.state_dict()
    torch.save(
        {name: value for name, value in state.items() if name != "conv1.weight"}, "stemless.pth"
    )
    torch.save({**state, "fc.bias": torch.zeros(7)}, "bias.pth")
    torch.save({**state, "fc.weight": torch.tensor(1.0)}, "flat.pth")
    torch.save({**state, "bn1.bias": torch.full((64,), torch.nan)}, "nan.pth")
    torch.save({1: torch.zeros(2)}, "numbered.pth")
    Path("own.safetensors").write_bytes(
        serialise(Trained(network, Normalization.imagenet(), "resnet18", len(LABELS), 1))
    )
    Path("hello.pth").write_text("hello")
    torch.save(network, "code.pth")
    Path("words.pth").write_text("words")
    write_labels(tmp_path, LABELS[:4]).rename("four.txt")
    write_labels(tmp_path)
    result = import_into(tmp_path, *words)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not list((tmp_path / "store").glob("*"))
