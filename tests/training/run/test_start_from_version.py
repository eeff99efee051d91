"""Runs that start from a version never test the images that it was trained on."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import picture, put

from model_store.session import Session
from model_store.store import ModelStore
from training.data.check import check, left_out
from training.errors import DataError
from training.gates import gate as gates
from training.gates.vs_live_version import (
    LATENCY_CHECK,
    NOT_WORSE_THAN_LIVE_CHECK,
    compare_with_live,
)
from training.gates.waivers import RUN_CHECKS
from training.quantization.version_data import open_version_data
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.run.known_images import (
    KNOWN_IMAGES_FILE,
    NOT_RECORDED,
    TRAINED_IMAGES_FILE,
    known_digests,
    read_known_images,
    read_version_known_images,
)
from training.run.request import RunRequest, start_run
from training.run.weights import BEST_WEIGHTS, INITIAL_WEIGHTS
from training.steps import cross_validation
from training.steps.calibrate import calibrate
from training.steps.evaluate import evaluate
from training.steps.export import MODEL_FILE, OUTPUTS, export, model_input
from training.steps.golden import write_golden
from training.steps.publish import publish
from training.steps.train import train

TRAIN, VALIDATION, TEST = range(24), range(24, 28), range(28, 36)
"""Numbers of the images of each class in each folder of the first version's data."""


def write_images(folder: Path, numbers: range) -> Path:
    """Write images of two classes as a folder per class. Equal numbers are equal images."""
    files = {
        f"{name}/{n}.png": picture(2 * n + label, 32, 32)
        for n in numbers
        for label, name in enumerate("ab")
    }
    return put(folder, files)


class FirstVersion:
    """A store with `n/1`, whose data had its own validation and test folders."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, ModelStore(root / "store", builtin_root=None)
        for name, numbers in (("train", TRAIN), ("val", VALIDATION), ("test", TEST)):
            write_images(root / "given" / name, numbers)
        self.run, self.data = self.start(data="given")
        train(self.run, self.data)
        self.finish(self.run, self.data)
        publish(self.run, self.data, self.store)

    def finish(self, run: Run, data: RunData) -> None:
        evaluate(run, data)
        calibrate(run, data)
        export(run)
        write_golden(run, data)
        gates.gate(run, data, dict.fromkeys(RUN_CHECKS, "random weights"), self.store)

    def start(self, *, data: str, **values: object) -> tuple[Run, RunData]:
        request = RunRequest(
            **{
                "data": (str(self.root / data),),
                "model": "n",
                "recipe": "modern",
                "changes": ("epochs=1", "batch_size=16", 'select="last"'),
                "image_size": None if "retrain" in values else (32, 32),
                **values,
            }  # type: ignore[arg-type]
        )
        run, images = start_run(request, self.root / "runs", self.store)
        return run, open_run_data(run, images=images)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> FirstVersion:
    first = FirstVersion(tmp_path_factory.mktemp("first"))
    write_images(first.root / "mixed", range(36))
    write_images(first.root / "trained", TRAIN)
    return first


def digests(data: RunData, indices: np.ndarray) -> set[str]:
    return {data.scan.facts[index].digest for index in indices}


def test_a_version_states_its_training_images_whatever_its_split(first: FirstVersion) -> None:
    """Also if the data had a test split; the test and validation images are not among them."""
    with first.store.open("n", 1) as version:
        known = read_version_known_images(version)
    assert known is not None
    assert known_digests(first.data.scan, known) == digests(first.data, first.data.training_indices)
    assert len(known) == 2 * len(TRAIN)


def test_a_version_without_checkpoint_states_them_too(first: FirstVersion, tmp_path: Path) -> None:
    """A comparison with it needs them."""
    path = Path(shutil.copytree(first.run.path, tmp_path / "copy"))
    run = Run.create_at(path, first.run.config.model_copy(update={"keep_checkpoint": False}))
    store = ModelStore(tmp_path / "store", builtin_root=None)
    publish(run, first.data, store)
    with store.open("n", 1) as version:
        assert version.manifest.checkpoint is None
        assert read_version_known_images(version) is not None


@pytest.mark.parametrize("origin", ["retrain", "start version", "start file of a run"])
def test_images_of_the_version_are_not_drawn_for_test(first: FirstVersion, origin: str) -> None:
    """The new data has no split of its own; 24 of 36 images per class are known."""
    values: dict[str, object] = {
        "retrain": {"retrain": "n"},
        "start version": {"start": "n/1"},
        "start file of a run": {"start": str(first.run.path / BEST_WEIGHTS)},
    }[origin]  # type: ignore[assignment]
    _, data = first.start(data="mixed", **values)
    learned = digests(first.data, first.data.split.train)
    assert len(data.split.test)
    assert not learned & digests(data, data.split.test)
    assert not learned & digests(data, data.split.validation)


@pytest.mark.parametrize("values", [{"retrain": "n"}, {"start": "n"}])
def test_data_without_any_new_image_is_refused(
    first: FirstVersion, values: dict[str, object]
) -> None:
    with pytest.raises(DataError, match=r"n/?1? was trained on 48 of its images"):
        first.start(data="trained", **values)


def test_known_images_in_a_given_test_split_are_left_out(
    first: FirstVersion, tmp_path: Path
) -> None:
    """Their copies in train stay. The check reports them."""
    write_images(tmp_path / "train", range(20, 30))
    write_images(tmp_path / "test", range(22, 36))
    _, data = first.start(data=str(tmp_path), retrain="n")
    assert not digests(first.data, first.data.split.train) & digests(data, data.split.test)
    assert len(data.split.test) == 2 * 12
    assert len(data.left_out) == 2 * (2 + 6)  # known in test, and copies of test in train
    kinds = {finding.kind: len(finding.items) for finding in data.findings.findings}
    assert kinds["test images that the initial weights were trained on"] == 4


def test_a_version_that_does_not_state_its_images_is_reported(
    first: FirstVersion, tmp_path: Path
) -> None:
    """As older versions and imports: a run that starts from it says so."""
    with first.store.open("n", 1) as version:
        fields = {
            name: getattr(version.manifest, name)
            for name in type(version.manifest).model_fields
            if name not in {"files", "model"}
        }
        files: dict[str, bytes | Path] = {
            entry.path: version.path(entry.path)
            for entry in version.manifest.files
            if entry.path != KNOWN_IMAGES_FILE
        }
        store = ModelStore(tmp_path / "store", builtin_root=None)
        store.publish("n", fields, files)
    request = RunRequest((str(first.root / "mixed"),), retrain="n")
    run, _ = start_run(request, tmp_path / "runs", store)
    assert run.config.start_changes == (NOT_RECORDED,)
    assert not run.has(KNOWN_IMAGES_FILE)
    assert first.start(data="mixed", retrain="n")[0].config.start_changes == ()


def test_the_live_version_is_compared_on_images_that_neither_has_learned(
    first: FirstVersion, tmp_path: Path
) -> None:
    """The live version was trained on most images that the new run tests."""
    write_images(tmp_path / "data" / "train", range(24, 36))
    write_images(tmp_path / "data" / "test", range(20, 30))
    run, data = first.start(data=str(tmp_path / "data"))
    train(run, data)
    evaluate(run, data)
    export(run)
    session = Session(run.path / MODEL_FILE, model_input(run), OUTPUTS)
    said: list[str] = []
    checks = {
        check.check: check
        for check in compare_with_live(run, data, session, first.store, said.append)
    }
    assert len(data.split.test) == 20
    assert "on 12 test images" in checks[NOT_WORSE_THAN_LIVE_CHECK].detail
    assert said == []
    live = set(digests(first.data, first.data.split.train))
    known = [index for index in data.split.test if data.scan.facts[index].digest in live]
    only_known = replace(data, split=replace(data.split, test=np.array(known)))
    checks = {
        check.check: check
        for check in compare_with_live(run, only_known, session, first.store, said.append)
    }
    assert NOT_WORSE_THAN_LIVE_CHECK not in checks
    assert len(said) == 1
    assert said[0] in checks[LATENCY_CHECK].detail  # the manifest keeps it


def test_the_images_of_a_variant_s_calibration_are_not_known(first: FirstVersion) -> None:
    """`quantize` opens data of a version: its training images are never in test."""
    with first.store.open("n", 1) as version:
        data = open_version_data(version, (str(first.root / "mixed"),))
    assert not digests(first.data, first.data.split.train) & digests(data, data.split.test)


def test_cross_validation_starts_from_the_weights_and_tests_new_images_only(
    first: FirstVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = first.start(data="mixed", start="n")
    tested: list[str] = []

    def fold_train(fold: Run, *_: object) -> None:
        assert (fold.path / INITIAL_WEIGHTS).read_bytes() == (
            run.path / INITIAL_WEIGHTS
        ).read_bytes()
        assert len(read_known_images(fold)) == 48

    def fold_evaluate(_: Run, fold_data: RunData, __: object) -> dict[str, float]:
        tested.extend(digests(fold_data, fold_data.split.test))
        return {"top1": 1.0, "test_images": len(fold_data.split.test)}

    monkeypatch.setattr(cross_validation, "train", fold_train)
    monkeypatch.setattr(cross_validation, "evaluate", fold_evaluate)
    result = cross_validation.cross_validate(run, data, 3)
    assert result.images == len(tested) == len(set(tested)) == 2 * 12
    assert not set(tested) & digests(first.data, first.data.split.train)
    with pytest.raises(DataError, match="without 24 that the initial weights"):
        cross_validation.cross_validate(run, data, 13)


def test_a_run_states_what_it_and_its_initial_weights_were_trained_on(first: FirstVersion) -> None:
    run, data = first.start(data="mixed", retrain="n")
    train(run, data)
    stated = np.load(io.BytesIO((run.path / TRAINED_IMAGES_FILE).read_bytes()))
    expected = digests(first.data, first.data.split.train) | digests(data, data.training_indices)
    assert len(stated) == len(expected)


def test_without_known_images_nothing_changes(first: FirstVersion) -> None:
    facts = first.data.scan.facts
    assert left_out(first.data.images, facts) == {}
    assert check(first.data.images, facts).left_out == 0
