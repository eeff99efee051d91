"""`predict --labels`: the accuracy of versions on a labelled folder, here and through HTTP."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from colour_model import CLASS_NAMES, COLOURS, WEIGHTS, make_store, plain, publish
from server_process import ServerProcess, running

from model_store.store import ModelStore
from service.commands.classifiers import PredictedImage
from service.commands.evaluation import compare, evaluate
from service.commands.predict import predict

SWAPPED = WEIGHTS[:, [1, 0, 2, 3, 4, 5, 6]]
SIZES = ((16, 12), (9, 9), (40, 30))


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Version 1 is always right; version 2 takes red for green and green for red."""
    store = make_store(tmp_path_factory.mktemp("two") / "store")
    publish(store)
    publish(store, weights=SWAPPED, golden_weights=SWAPPED)
    return store


@pytest.fixture(scope="module")
def server_of_both(two_versions: ModelStore) -> Iterator[ServerProcess]:
    arguments = ("--store", two_versions.root, "--no-builtin", "--version-policy", "all")
    with running(*arguments) as server:
        yield server.announced()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 images in a folder for each of the seven classes."""
    root = tmp_path_factory.mktemp("labelled")
    for colour in COLOURS:
        for number, size in enumerate(SIZES):
            file = root / colour / "more" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(plain(colour, size=size))
    return root


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(predict, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def report(*arguments: object) -> dict[str, Any]:
    code, output = run(*arguments, "--format", "json")
    assert code == 0, output
    document: dict[str, Any] = json.loads(output)
    return document


def test_two_versions_are_measured_and_compared(two_versions: ModelStore, folder: Path) -> None:
    options = ("--labels", folder, "--store", two_versions.root, "--model", "colours")
    found = report(*options, "--version", 1, "--compare", 2)
    good, bad = found["evaluations"]
    assert good["versions"] == ["colours/1"]
    assert bad["versions"] == ["colours/2"]
    assert (good["images"], good["failed"]) == (21, [])
    assert (good["top1"], good["confusion"]) == (1, [])
    assert (bad["top1"], bad["top5"]) == (pytest.approx(15 / 21), 1)
    assert bad["top1_interval"] == pytest.approx([0.5004, 0.8619], abs=1e-3)
    assert bad["confusion"] == [
        {"label": "green", "predicted": "red", "images": 3},
        {"label": "red", "predicted": "green", "images": 3},
    ]
    red = next(entry for entry in bad["classes"] if entry["label"] == "red")
    assert red == {"label": "red", "images": 3, "recall": 0, "precision": 0}
    assert found["comparison"] == {
        "images": 21,
        "only_first_correct": 6,
        "only_second_correct": 0,
        "changed_labels": 6,
        "p_value": pytest.approx(2 / 2**6),
    }


def test_figures_through_http_are_the_same(
    two_versions: ModelStore, server_of_both: ServerProcess, folder: Path
) -> None:
    options = ("--labels", folder, "--model", "colours", "--version", 2, "--compare", 1)
    here = report(*options, "--store", two_versions.root)
    assert report(*options, "--url", server_of_both.address) == here
    assert report(*options, "--url", "http://127.0.0.1:9", "--local", "--store",
                  two_versions.root) == here  # fmt: skip


def test_an_alias_names_a_version_through_http(
    two_versions: ModelStore, server_of_both: ServerProcess, folder: Path
) -> None:
    two_versions.promote("colours", 2, alias="trial")
    found = report("--labels", folder, "--model", "colours", "--version", "trial",
                   "--url", server_of_both.address)  # fmt: skip
    assert found["evaluations"][0]["versions"] == ["colours/2"]


def test_an_image_that_fails_is_listed_and_fails_the_command(
    two_versions: ModelStore, tmp_path: Path
) -> None:
    for colour in ("red", "blue"):
        (tmp_path / colour).mkdir()
        (tmp_path / colour / "1.png").write_bytes(plain(colour))
    (tmp_path / "blue/0.png").write_bytes(b"no image")
    options = ("--labels", tmp_path, "--store", two_versions.root, "--model", "colours")
    code, output = run(*options, "--version", 1, "--format", "json")
    assert code == 1
    (found,) = json.loads(output)["evaluations"]
    assert (found["images"], found["top1"]) == (3, 1)
    assert [entry["path"] for entry in found["failed"]] == [str(tmp_path / "blue/0.png")]
    code, output = run(*options, "--version", 1)
    assert code == 1
    assert "blue/0.png" in output


def test_csv_has_a_row_for_each_image_and_version(two_versions: ModelStore, folder: Path) -> None:
    _, output = run("--labels", folder, "--store", two_versions.root, "--model", "colours",
                    "--version", 1, "--compare", 2, "--format", "csv")  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [row["version"] for row in rows] == ["colours/1"] * 21 + ["colours/2"] * 21
    wrong = [row for row in rows if row["label"] != row["correct_label"]]
    assert {row["correct_label"] for row in wrong} == {"red", "green"}


def test_the_table_names_the_confused_classes(two_versions: ModelStore, folder: Path) -> None:
    code, output = run("--labels", folder, "--store", two_versions.root, "--model", "colours",
                       "--version", 2, "--compare", 1)  # fmt: skip
    lines = [line.split() for line in output.splitlines()]
    assert code == 0
    assert ["red", "green", "3"] in lines
    assert any(line[:1] == ["top-1"] and line[1] == "71.43%" for line in lines)


def test_a_folder_that_is_no_class_is_a_usage_error(
    two_versions: ModelStore, tmp_path: Path
) -> None:
    """Otherwise every image in a misspelt folder would count as a mistake of the model."""
    (tmp_path / "rad").mkdir()
    (tmp_path / "rad/1.png").write_bytes(plain("red"))
    code, output = run("--labels", tmp_path, "--store", two_versions.root, "--model", "colours")
    assert code == 2
    assert "'rad'" in output
    assert all(name in output for name in CLASS_NAMES)


@pytest.mark.parametrize(
    "arguments", [(), ("a.png", "--labels", "."), ("a.png", "--compare", "2"), ("--labels", ".")]
)
def test_arguments_that_do_not_fit_together_are_usage_errors(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments)[0] == 2


def outcome(path: str, *scores: tuple[str, float], abstained: bool = False) -> PredictedImage:
    ranked = [{"label": label, "index": 0, "score": score} for label, score in scores]
    return PredictedImage(path, "m/1", {"predictions": ranked, "abstained": abstained})


def test_calibration_and_abstention_are_counted() -> None:
    """The bins of 1/15 are those of training: two images in one bin, one in another."""
    labels = dict.fromkeys("abc", "x")
    images = [
        outcome("a", ("x", 0.91)),
        outcome("b", ("y", 0.93), ("x", 0.07), abstained=True),
        outcome("c", ("x", 0.61)),
    ]
    figures = evaluate(images, labels)
    assert figures["calibration_error"] == pytest.approx((abs(0.91 + 0.93 - 1) + abs(0.61 - 1)) / 3)
    assert figures["mean_score"] == pytest.approx((0.91 + 0.93 + 0.61) / 3)
    assert figures["abstained"] == pytest.approx(1 / 3)
    assert figures["top1_of_answered"] == 1
    assert figures["top5"] == 1


def test_only_images_that_both_versions_classified_are_compared() -> None:
    labels = dict.fromkeys("abc", "x")
    first = [outcome("a", ("x", 1)), outcome("b", ("x", 1)), PredictedImage("c", error="broken")]
    second = [outcome("a", ("y", 1)), PredictedImage("b", error="broken"), outcome("c", ("x", 1))]
    found = compare(first, second, labels)
    assert (found["images"], found["only_first_correct"], found["p_value"]) == (1, 1, 1)
