"""Verified imports: labelled images prove a version; without them it is unproven."""

import io
import shutil
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from foreign_graphs import LABELS, SIZE, colour_graph, foreign_graph, write, write_labels
from html_page import Page
from onnx import numpy_helper
from PIL import Image
from server_process import running
from torch.nn import functional

from model_store import golden
from model_store.__main__ import main as store_main
from model_store.session import Session
from model_store.store import ModelStore
from training.__main__ import main

COLOURS = ("red", "green", "blue")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four noisy images of each colour, in a folder named after the colour."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for position, colour in enumerate(COLOURS):
        (folder / colour).mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(0, 90, (50, 70, 3), dtype=np.uint8)
            pixels[..., position] += 120
            Image.fromarray(pixels).save(
                folder / colour / f"{number}.{'png' if number % 2 else 'jpg'}"
            )
    return folder


def import_into(
    folder: Path,
    model: onnx.ModelProto,
    *words: object,
    labels: tuple[str, ...] = COLOURS,
    name: str = "m",
) -> Result:
    """Import a graph that takes floats from 0 to 1."""
    command = ["import", "--onnx", write(folder, model), "--labels", write_labels(folder, labels)]
    command += ["--model", name, "--store", folder / "store", "--preset", "zero-one"]
    command += ["--report", folder / "report.md", *words]
    return CliRunner().invoke(main, list(map(str, command)))


def test_labelled_images_prove_and_promote_a_version(tmp_path: Path, pictures: Path) -> None:
    """Its golden images have the reference's own logits, and the report is sealed in it."""
    result = import_into(tmp_path, colour_graph(), "--verify", pictures)
    assert result.exit_code == 0, result.output
    store = ModelStore(tmp_path / "store", builtin_root=None)
    assert store.aliases("m").version("production") == 1
    with store.open("m", 1) as version:
        manifest = version.manifest
        golden.prove(version, Session(version.path("model.onnx"), manifest.input, manifest.outputs))
        assert manifest.proof == "proven"
        assert manifest.metrics is not None
        assert (manifest.metrics.top1, manifest.metrics.test_images) == (1.0, 12)
        checks = {check.check: check.value for check in manifest.gate}
        assert checks["accuracy_floor"] == 1.0
        samples = [block for block in manifest.golden if "--verify" in block.purpose]
        assert [block.purpose.rpartition(" ")[2] for block in samples] == list(COLOURS)
        for position, block in enumerate(samples):
            means = np.load(version.path(block.pixels)).astype(np.float64).mean((0, 1)) / 255
            assert np.abs(np.array(block.logits) - 10 * means).max() < 1e-4
            assert np.argmax(block.logits) == position
        assert manifest.imported is not None
        assert manifest.imported.name == "foreign.onnx"
        assert '"proven"' in version.path(manifest.imported.report).read_text()


def test_the_version_holds_a_report_of_the_labelled_images(tmp_path: Path, pictures: Path) -> None:
    """With `--no-report` it does not. `--int8` says what it would cost, or that it cannot be."""
    store = ModelStore(tmp_path / "store", builtin_root=None)
    for words, file in ((("--int8",), "report.html"), (("--no-report",), None)):
        result = import_into(tmp_path, colour_graph(), "--verify", pictures, *words)
        assert result.exit_code == 0, result.output
        with store.open("m", store.resolve("m")) as version:
            assert version.manifest.report_file == file
            assert [block.precision for block in version.manifest.variants] == ["fp32"]
            if file:
                assert "int8 of m/1" in result.output
                assert "in fp32 only" in result.output
                page = Page(version.read_file(file))
                assert 'id="confusion"' in page.source
                assert "100.00%" in page.source
                assert 'id="curves"' not in page.source


def test_without_labelled_images_a_version_is_unproven_and_not_promoted(
    tmp_path: Path, pictures: Path
) -> None:
    """`list`, `show`, the server and its API state so, and `production` stays."""
    assert import_into(tmp_path, colour_graph(), "--verify", pictures).exit_code == 0
    result = import_into(tmp_path, colour_graph())
    assert result.exit_code == 0, result.output
    store = tmp_path / "store"
    assert ModelStore(store).aliases("m").version("production") == 1
    words = ["--store", str(store)]
    listed = CliRunner().invoke(store_main, [*words, "list", "m"]).output.splitlines()
    assert ["unproven" in line for line in listed] == [False, False, True]
    shown = CliRunner().invoke(store_main, [*words, "show", "m", "2"]).output
    assert "unproven" in shown
    assert "foreign.onnx" in shown
    ModelStore(store).promote("m", 2)
    with running("--store", store) as server, server.announced().client() as client:
        (summary,) = [
            model for model in client.get("/v1/models").json()["models"] if model["model"] == "m"
        ]
        assert (summary["version"], summary["proof"]) == (2, "unproven")
        assert client.get("/v1/models/m").json()["imported"]["name"] == "foreign.onnx"
        assert server.stdout.wait_for(r"^  model  m/2.*: 3 classes, unproven$")


def test_an_unproven_version_does_not_take_over(tmp_path: Path) -> None:
    """The first version of a model serves; a second one waits for a promotion."""
    store = ModelStore(tmp_path / "store")
    assert import_into(tmp_path, colour_graph()).exit_code == 0
    assert store.aliases("m").names() == []
    assert import_into(tmp_path, colour_graph("BGR")).exit_code == 0
    assert store.versions("m") == [1, 2]
    assert store.aliases("m").version("production") == 1
    refused = import_into(tmp_path, colour_graph(), name="cifar10")
    assert refused.exit_code == 2
    assert "cifar10" in refused.output
    assert not store.versions("cifar10") or store.layer("cifar10") == "built-in"


def test_a_repeated_import_makes_no_version(tmp_path: Path, pictures: Path) -> None:
    """With labelled images it is another import."""
    for _ in range(2):
        assert "published m version 1 " in import_into(tmp_path, colour_graph()).output
    assert (
        "published m version 2 "
        in import_into(tmp_path, colour_graph(), "--verify", pictures).output
    )
    assert ModelStore(tmp_path / "store").aliases("m").version("production") == 2


def test_swapped_channels_are_noticed(tmp_path: Path, pictures: Path) -> None:
    """Nothing is published, and the report names the input spec that is better."""
    result = import_into(tmp_path, colour_graph("BGR"), "--verify", pictures)
    assert result.exit_code == 1
    assert "not published: accuracy_floor, no_better_reading failed" in result.output
    report = (tmp_path / "report.md").read_text()
    assert "4 of 12 correct, 12 with BGR instead" in report
    words = ("--verify", pictures, "--channels", "BGR")
    assert import_into(tmp_path, colour_graph("BGR"), *words).exit_code == 0


def test_swapped_channels_are_noticed_if_the_accuracy_floor_is_waived(
    tmp_path: Path, pictures: Path
) -> None:
    result = import_into(
        tmp_path, colour_graph("BGR"), "--verify", pictures, "--waive", "accuracy_floor=a test"
    )
    assert "not published: no_better_reading failed" in result.output


def test_a_version_with_waivers_is_unproven(tmp_path: Path, pictures: Path) -> None:
    """The manifest lists the waived checks."""
    waivers = (
        "--waive",
        "accuracy_floor=a demonstration",
        "--waive",
        "no_better_reading=a demonstration",
    )
    result = import_into(tmp_path, colour_graph("BGR"), "--verify", pictures, *waivers)
    assert result.exit_code == 0, result.output
    store = ModelStore(tmp_path / "store", builtin_root=None)
    with store.open("m", 1) as version:
        assert version.manifest.proof == "unproven"
        assert {check.check for check in version.manifest.gate if check.waived} == {
            "accuracy_floor",
            "no_better_reading",
        }
    assert store.aliases("m").names() == []


def test_folders_without_a_label_are_refused(tmp_path: Path, pictures: Path) -> None:
    """The message names them."""
    (pictures / "blue").rename(pictures / "azure")
    result = import_into(tmp_path, colour_graph(), "--verify", pictures)
    assert result.exit_code == 2
    assert "azure" in result.output


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, pictures: Path) -> None:
    (pictures / "red" / "0.jpg").write_bytes(b"\xff\xd8\xff words")
    result = import_into(tmp_path, colour_graph(), "--verify", pictures)
    assert result.exit_code == 2
    assert "red/0.jpg" in result.output


def served_probabilities(
    client: httpx.Client, pixels: np.ndarray, labels: tuple[str, ...]
) -> np.ndarray:
    """Probabilities over HTTP for one image, in the order of the labels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    response = client.post("/v1/models/m/predict?top_k=5", content=buffer.getvalue())
    assert response.status_code == 200, response.text
    scores = {
        prediction["label"]: prediction["score"]
        for prediction in response.json()["results"][0]["predictions"]
    }
    return np.array([scores[label] for label in labels])


def torch_probabilities(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    """The probabilities of a `foreign_graph` for `[height, width, 3]` from 0 to 1, without ONNX."""
    arrays = [
        torch.from_numpy(numpy_helper.to_array(constant).copy())
        for constant in model.graph.initializer
    ]
    kernel, scale, shift, mean, variance, _, weight, bias = arrays[:8]
    maps = functional.conv2d(
        torch.from_numpy(pixels).float().permute(2, 0, 1)[None], kernel, stride=2, padding=1
    )
    maps = functional.batch_norm(maps, mean, variance, scale, shift).relu()
    return functional.linear(maps.mean((2, 3)), weight, bias).softmax(1)[0].numpy()


@pytest.mark.parametrize("end", ["Softmax", "normalised by hand"])
def test_the_service_returns_the_files_own_probabilities(tmp_path: Path, end: str) -> None:
    """The version serves the logits of the first file, and the probabilities of the second."""
    model = foreign_graph(layout="NHWC", end=end, batch=1, head="Reshape")
    assert import_into(tmp_path, model, labels=LABELS).exit_code == 0
    random = np.random.default_rng(3)
    with running("--store", tmp_path / "store") as server, server.announced().client() as client:
        for limit in (50, 150, 255):
            pixels = random.integers(0, limit, (SIZE, SIZE, 3), dtype=np.uint8)
            assert (
                np.abs(
                    served_probabilities(client, pixels, LABELS)
                    - torch_probabilities(model, pixels / 255)
                ).max()
                < 1e-3
            )


def test_one_class_alone_is_not_a_proof(tmp_path: Path, pictures: Path) -> None:
    """A network with a constant score, or with other labels in another order, would pass."""
    for colour in COLOURS[1:]:
        shutil.rmtree(pictures / colour)
    for number in range(4, 12):
        shutil.copy(pictures / "red" / "0.jpg", pictures / "red" / f"{number}.jpg")
    result = import_into(tmp_path, colour_graph(), "--verify", pictures)
    assert result.exit_code == 1, result.output
    assert "verify_classes" in result.output


def test_a_floor_that_chance_reaches_is_refused(tmp_path: Path, pictures: Path) -> None:
    result = import_into(tmp_path, colour_graph(), "--verify", pictures, "--min-accuracy", "0.3")
    assert result.exit_code == 2, result.output
    assert "--min-accuracy must be above 0.333" in " ".join(result.output.split())


def test_a_version_that_is_not_promoted_does_not_take_over(tmp_path: Path, pictures: Path) -> None:
    """Without an alias the newest version serves, so `production` is set to the older one."""
    assert import_into(tmp_path, colour_graph()).exit_code == 0
    result = import_into(tmp_path, colour_graph(), "--verify", pictures, "--no-promote")
    assert result.exit_code == 0, result.output
    store = ModelStore(tmp_path / "store", builtin_root=None)
    assert store.versions("m") == [1, 2]
    assert store.aliases("m").version("production") == 1
