"""Retraining: classes keep their indices, and the previous version is the baseline."""

import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from server_process import running

from model_store.store import ModelStore
from training.__main__ import main
from training.data.sources import load_data
from training.errors import DataError, InitialWeightsError
from training.gates.vs_previous_version import PREVIOUS_COMPARISON_FILE
from training.run.data import open_run_data
from training.run.directory import Run
from training.run.previous_version import load_previous_version
from training.run.request import RunRequest, start_run
from training.run.weights import INITIAL_WEIGHTS, PREVIOUS_WEIGHTS, read_weights
from training.steps.evaluate import read_labels, read_logits

OLD, NEW = range(8), range(10)
QUICK = ("--set", "accuracy_floor=0", "--waive", "accuracy_jpeg=short")


def write_digits(folder: Path, classes: Sequence[int], part: slice) -> None:
    """Write digits of scikit-learn as a folder per class."""
    digits = load_data("digits")
    for label in classes:
        target = folder / f"digit {label}"
        target.mkdir(parents=True, exist_ok=True)
        for index in np.flatnonzero(digits.labels == label)[part]:
            (target / f"{index}.png").write_bytes(digits.encoded[index])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store and a published model of eight digits, trained on half of them."""
    place = tmp_path_factory.mktemp("retraining")
    write_digits(place / "old" / "pictures", OLD, slice(0, 90))
    write_digits(place / "new" / "pictures", NEW, slice(0, None))
    recipe = "--image-size 32 --recipe digits --epochs 4 --model pictures"
    words = ["run", "--data", str(place / "old" / "pictures"), *recipe.split()]
    words += ["--store", str(place / "store"), "--runs", str(place / "runs"), *QUICK]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    ModelStore(place / "store").promote("pictures", 1)
    return place


def retraining(place: Path, **values: object) -> Run:
    """Start a run that retrains the published model."""
    request = RunRequest(
        **{"data": (str(place / "new" / "pictures"),), "retrain": "pictures", **values}
    )  # type: ignore[arg-type]
    return start_run(request, place / "runs", ModelStore(place / "store"))[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_new_classes_are_appended_and_the_service_loads_the_version(place: Path) -> None:
    """From eight digits to ten. The second version is derived from the first."""
    digits = load_data("digits")
    nines = [digits.encoded[index] for index in np.flatnonzero(digits.labels == 9)[:20]]
    with running("--store", place / "store", "--store-poll-seconds", "0.2") as server:
        server.announced()
        with server.client() as client:
            assert predict(client, nines[0])["version"] == 1
            changes = (
                "augmentation.flip=none",
                "optimizer.learning_rate=0.05",
                "freeze_epochs=1",
                "ema_decay=0.9",
            )
            recipe = ("--epochs", "6", *(word for change in changes for word in ("--set", change)))
            words = ["retrain", "pictures", "--data", str(place / "new" / "pictures"), *recipe]
            words += ["--store", str(place / "store"), "--runs", str(place / "runs"), *QUICK]
            result = CliRunner().invoke(main, words)
            assert result.exit_code == 0, result.output
            assert "digit 9" in result.output
            assert "new" in result.output
            ModelStore(place / "store").promote("pictures", 2)
            while predict(client, nines[0])["version"] != 2:  # pytest-timeout limits the wait
                time.sleep(0.1)
            answers = [predict(client, nine) for nine in nines]
            assert {response["version"] for response in answers} == {2}
            assert client.get("/v1/models/pictures").json()["derived_from"]["version"] == 1
            labels = [response["results"][0]["predictions"][0]["label"] for response in answers]
            assert labels.count("digit 9") >= 15, labels
    with (
        ModelStore(place / "store").open("pictures", 2) as version,
        ModelStore(place / "store").open("pictures", 1) as old,
    ):
        manifest = version.manifest
        assert manifest.class_names == tuple(f"digit {label}" for label in NEW)
        assert manifest.derived_from is not None
        assert (manifest.derived_from.version, manifest.derived_from.digest) == (1, old.digest)
        assert "not_worse" in {check.check for check in manifest.gate}
        assert manifest.training is not None
        assert manifest.training.command.startswith(
            "python -m training retrain pictures/1 --data pictures"
        )
        assert_models_were_compared_on_old_classes(
            Run.open(place / "runs" / manifest.training.run_id)
        )


def assert_models_were_compared_on_old_classes(run: Run) -> None:
    """Both models choose only among the old classes."""
    comparison = run.read_json(PREVIOUS_COMPARISON_FILE, "gate")
    old, new = comparison["classes"][:8], comparison["classes"][8:]
    assert [line["name"] for line in new] == ["digit 8", "digit 9"]
    assert all(line["old_right"] is None and line["like_old"] is None for line in new)
    assert all(line["new_right"] <= line["like_old"] <= line["images"] for line in old)
    assert comparison["gained"] - comparison["lost"] == sum(
        line["like_old"] - line["old_right"] for line in old
    )
    page = (run.path / "report.html").read_text()
    assert f"{comparison['gained']} gained, {comparison['lost']} lost" in page
    assert '<th scope="row">digit 9</th>' in page
    logits, labels = read_logits(run), read_labels(run)
    assert sum(line["like_old"] for line in old) == int(
        (logits[:, :8].argmax(1) == labels)[labels < 8].sum()
    )


def predict(client: httpx.Client, image: bytes) -> dict:
    """Return the response of the server to one image."""
    response = client.post("/v1/models/pictures/predict", content=image)
    assert response.status_code == 200, response.text
    return response.json()


def test_images_that_the_old_model_was_trained_on_are_not_tested(place: Path) -> None:
    """Also if the new split would assign them to test."""
    first = next(
        Run.open(run) for run in (place / "runs").iterdir() if not (run / PREVIOUS_WEIGHTS).exists()
    )
    old, new = open_run_data(first), open_run_data(retraining(place))
    learned = {old.scan.facts[index].digest for index in old.split.train}
    held_out = {new.scan.facts[index].digest for index in (*new.split.validation, *new.split.test)}
    assert len(learned) > 400
    assert not learned & held_out
    assert len(new.split.test) > 150
    assert len(new.split.validation) > 50


def test_the_network_starts_with_the_previous_weights(place: Path) -> None:
    """Head rows, normalization and geometry are kept. The recipe is `finetune`."""
    run = retraining(place)
    start, previous = (
        read_weights(run.path / name) for name in (INITIAL_WEIGHTS, PREVIOUS_WEIGHTS)
    )
    assert previous.classes <= start.classes
    assert (
        start.network.get_parameter("fc.weight")[: previous.classes]
        == previous.network.get_parameter("fc.weight")
    ).all()
    assert start.normalize.to_json() == previous.normalize.to_json()
    assert run.config.recipe_name == "finetune"
    assert run.config.preprocessing.crop_height == 32


def test_a_class_without_images_is_rejected(place: Path, tmp_path: Path) -> None:
    """The error names the classes and the options to use."""
    write_digits(tmp_path / "some", (3, 8), slice(0, 40))
    with pytest.raises(
        DataError,
        match=r"digit 0, digit 1.*--data OLD --data NEW.*--rename 'digit 0'=NEW.*run .*--start",
    ):
        retraining(place, data=(str(tmp_path / "some"),))


def test_a_renamed_class_keeps_its_place_and_its_weights(place: Path, tmp_path: Path) -> None:
    """The class 3 has the name `three = 3` now."""
    write_digits(tmp_path / "some", NEW, slice(0, 40))
    (tmp_path / "some" / "digit 3").rename(tmp_path / "some" / "three = 3")
    rename = ("digit 3=three = 3",)
    run = retraining(place, data=(str(tmp_path / "some"),), rename=rename)
    names = [f"digit {label}" for label in NEW]
    names[3] = "three = 3"
    assert list(run.config.class_names or ()) == names
    start, previous = (
        read_weights(run.path / name).network.get_parameter("fc.weight")
        for name in (INITIAL_WEIGHTS, PREVIOUS_WEIGHTS)
    )
    assert (start[: len(previous)] == previous).all()
    assert "--rename 'digit 3=three = 3'" in run.config.command


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (("digit 33=x",), "with a class of pictures"),
        (("digit 3",), "OLD=NEW"),
        (("digit 3= ",), "OLD=NEW"),
        (("digit 3=digit 4",), "digit 4 to two classes"),
    ],
)
def test_a_rename_that_is_none_is_rejected(
    place: Path, rename: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InitialWeightsError, match=message):
        retraining(place, rename=rename)


def test_two_classes_can_change_names(place: Path) -> None:
    """All renames are applied at once."""
    previous = load_previous_version("pictures", ModelStore(place / "store"))
    swapped = previous.renamed(("digit 0=digit 1", "digit 1=digit 0"))
    assert swapped.class_names[:3] == ("digit 1", "digit 0", "digit 2")
