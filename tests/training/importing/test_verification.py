"""Labelled images prove an import; without them it is unproven, marked everywhere, and `production` does not follow."""

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
    """Twelve noisy pictures, most of them of the colour that their folder is called after."""
    chance = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for position, colour in enumerate(COLOURS):
        (folder / colour).mkdir(parents=True)
        for number in range(4):
            pixels = chance.integers(0, 90, (50, 70, 3), dtype=np.uint8)
            pixels[..., position] += 120
            Image.fromarray(pixels).save(
                folder / colour / f"{number}.{'png' if number % 2 else 'jpg'}"
            )
    return folder


def import_into(
    folder: Path,
    model: onnx.ModelProto,
    *words: str,
    labels: tuple[str, ...] = COLOURS,
    name: str = "m",
) -> Result:
    """`import` of a graph that takes 0 to 1."""
    path, store = write(folder, model), str(folder / "store")
    command = [
        "import",
        "--onnx",
        str(path),
        "--labels",
        str(write_labels(folder, labels)),
        "--model",
        name,
        "--store",
        store,
    ]
    return CliRunner().invoke(
        main, [*command, "--preset", "zero-one", "--report", str(folder / "report.md"), *words]
    )


def test_labelled_images_make_a_version_proven_and_promoted(tmp_path: Path, pictures: Path) -> None:
    """Accuracy, golden images out of the folder with the original's own logits, and the whole report are sealed in it."""
    result = import_into(tmp_path, colour_graph(), "--verify", str(pictures))
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
            assert np.abs(np.array(block.logits) - 10 * means).max() < 1e-4, (
                "the original's logits, reckoned by hand"
            )
            assert np.argmax(block.logits) == position
        assert manifest.imported is not None
        assert manifest.imported.name == "foreign.onnx"
        assert '"proven"' in version.path(manifest.imported.report).read_text()


def test_without_labelled_images_a_version_is_unproven_and_not_promoted(
    tmp_path: Path, pictures: Path
) -> None:
    """It is marked in the list, in what `show` says, and over HTTP; what `production` names goes on."""
    assert import_into(tmp_path, colour_graph(), "--verify", str(pictures)).exit_code == 0
    result = import_into(tmp_path, colour_graph())
    assert result.exit_code == 0, result.output
    assert "m version 2 is unproven" in result.output
    store = tmp_path / "store"
    assert ModelStore(store).aliases("m").version("production") == 1
    words = ["--store", str(store)]
    listed = CliRunner().invoke(store_main, [*words, "list", "m"]).output.splitlines()
    assert ["unproven" in line for line in listed] == [False, False, True]
    assert (
        "(published, unproven)" in CliRunner().invoke(store_main, [*words, "show", "m", "2"]).output
    )
    assert (
        "imported  foreign.onnx"
        in CliRunner().invoke(store_main, [*words, "show", "m", "2"]).output
    )
    ModelStore(store).promote("m", 2)
    with running("--store", store) as server, server.announced().client() as client:
        (summary,) = [
            model for model in client.get("/v1/models").json()["models"] if model["model"] == "m"
        ]
        assert (summary["version"], summary["proof"]) == (2, "unproven")
        assert client.get("/v1/models/m").json()["imported"]["name"] == "foreign.onnx"
        assert server.stdout.wait_for(r"^  model  m/2.*: 3 classes, unproven$")


def test_an_unproven_version_takes_over_from_none_that_serves(tmp_path: Path) -> None:
    """The first of a model serves, marked; a second one waits until a person promotes it."""
    store = ModelStore(tmp_path / "store")
    assert import_into(tmp_path, colour_graph()).exit_code == 0
    assert store.aliases("m").names() == []
    assert import_into(tmp_path, colour_graph("BGR")).exit_code == 0
    assert store.versions("m") == [1, 2]
    assert store.aliases("m").version("production") == 1
    refused = import_into(tmp_path, colour_graph(), name="cifar10")
    assert refused.exit_code == 2
    assert "cifar10 is built in, and this version would hide it" in " ".join(refused.output.split())


def test_an_import_that_brings_nothing_new_makes_no_version(tmp_path: Path, pictures: Path) -> None:
    """Doing it again finds the version; with labelled images it is another one."""
    for _ in range(2):
        assert "published m version 1 " in import_into(tmp_path, colour_graph()).output
    assert (
        "published m version 2 "
        in import_into(tmp_path, colour_graph(), "--verify", str(pictures)).output
    )
    assert ModelStore(tmp_path / "store").aliases("m").version("production") == 2


def test_turned_channels_are_noticed(tmp_path: Path, pictures: Path) -> None:
    """A network for BGR that is taken as one for RGB reads red as blue: nothing is published, and the report says what would do."""
    result = import_into(tmp_path, colour_graph("BGR"), "--verify", str(pictures))
    assert result.exit_code == 1
    assert "not published: accuracy_floor, no_better_reading failed" in result.output
    assert "4 of 12 right, with BGR instead 12" in (tmp_path / "report.md").read_text()
    assert (
        import_into(
            tmp_path, colour_graph("BGR"), "--verify", str(pictures), "--channels", "BGR"
        ).exit_code
        == 0
    )


def test_turned_channels_are_noticed_where_the_floor_is_low(tmp_path: Path, pictures: Path) -> None:
    """A floor that is met proves nothing where another reading of the pixels is clearly better."""
    result = import_into(
        tmp_path, colour_graph("BGR"), "--verify", str(pictures), "--waive", "accuracy_floor=a test"
    )
    assert "not published: no_better_reading failed" in result.output


def test_what_is_waived_is_published_unproven(tmp_path: Path, pictures: Path) -> None:
    """The reason stands in the manifest."""
    waivers = (
        "--waive",
        "accuracy_floor=a demonstration",
        "--waive",
        "no_better_reading=a demonstration",
    )
    assert (
        import_into(tmp_path, colour_graph("BGR"), "--verify", str(pictures), *waivers).exit_code
        == 0
    )
    store = ModelStore(tmp_path / "store", builtin_root=None)
    with store.open("m", 1) as version:
        assert version.manifest.proof == "unproven"
        assert {check.check for check in version.manifest.gate if check.waived} == {
            "accuracy_floor",
            "no_better_reading",
        }
    assert store.aliases("m").names() == []


def test_folders_that_are_no_labels_are_refused(tmp_path: Path, pictures: Path) -> None:
    """The strange ones are named."""
    (pictures / "blue").rename(pictures / "azure")
    result = import_into(tmp_path, colour_graph(), "--verify", str(pictures))
    assert result.exit_code == 2
    assert "azure" in result.output


def test_a_picture_that_can_not_be_read_is_named(tmp_path: Path, pictures: Path) -> None:
    """Exit code 2, no traceback."""
    (pictures / "red" / "0.jpg").write_bytes(b"\xff\xd8\xff words")
    result = import_into(tmp_path, colour_graph(), "--verify", str(pictures))
    assert result.exit_code == 2
    assert "red/0.jpg" in result.output


def answers(client: httpx.Client, pixels: np.ndarray, labels: tuple[str, ...]) -> np.ndarray:
    """Probabilities over HTTP for one image, in the labels' order."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    answer = client.post("/v1/models/m/predict?top_k=5", content=buffer.getvalue())
    assert answer.status_code == 200, answer.text
    scores = {
        prediction["label"]: prediction["score"]
        for prediction in answer.json()["results"][0]["predictions"]
    }
    return np.array([scores[label] for label in labels])


def by_torch(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    """The probabilities of a `foreign_graph` for `[height, width, 3]` between 0 and 1, with nothing of ONNX."""
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
def test_a_foreign_network_answers_over_http_as_by_itself(tmp_path: Path, end: str) -> None:
    """Probabilities of the service are those of the file, whether it serves logits or the file's own probabilities."""
    model = foreign_graph(layout="NHWC", end=end, batch=1, head="Reshape")
    assert import_into(tmp_path, model, labels=LABELS).exit_code == 0
    chance = np.random.default_rng(3)
    with running("--store", tmp_path / "store") as server, server.announced().client() as client:
        for limit in (50, 150, 255):
            pixels = chance.integers(0, limit, (SIZE, SIZE, 3), dtype=np.uint8)
            assert (
                np.abs(answers(client, pixels, LABELS) - by_torch(model, pixels / 255)).max() < 1e-3
            )


def test_one_class_alone_proves_nothing(tmp_path: Path, pictures: Path) -> None:
    """A network with its other labels in another order, or that says the same of everything, would pass."""
    for colour in COLOURS[1:]:
        shutil.rmtree(pictures / colour)
    for number in range(4, 12):
        shutil.copy(pictures / "red" / "0.jpg", pictures / "red" / f"{number}.jpg")
    result = import_into(tmp_path, colour_graph(), "--verify", str(pictures))
    assert result.exit_code == 1, result.output
    assert "verify_classes" in result.output


def test_a_floor_that_guessing_reaches_is_refused(tmp_path: Path, pictures: Path) -> None:
    """Else any network could be called proven."""
    result = import_into(
        tmp_path, colour_graph(), "--verify", str(pictures), "--min-accuracy", "0.3"
    )
    assert result.exit_code == 2, result.output
    assert "proves nothing" in " ".join(result.output.split())


def test_what_is_held_back_does_not_take_over_where_no_alias_says_what_serves(
    tmp_path: Path, pictures: Path
) -> None:
    """The version that served is named `production` first."""
    assert import_into(tmp_path, colour_graph()).exit_code == 0
    result = import_into(tmp_path, colour_graph(), "--verify", str(pictures), "--no-promote")
    assert result.exit_code == 0, result.output
    store = ModelStore(tmp_path / "store", builtin_root=None)
    assert store.versions("m") == [1, 2]
    assert store.aliases("m").version("production") == 1
