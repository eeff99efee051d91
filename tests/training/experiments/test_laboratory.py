"""The laboratory trains each network once, resumes it, and keeps measurements."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratories import interrupted_copy, laboratory_at

from training.errors import InterruptedRunError, RecipeError, RunError
from training.experiments.laboratory import Laboratory, digest, model_name, seconds_of_all
from training.experiments.sample_images import SampleTestImages, sample_training_images
from training.reports.history import split_indices
from training.run.data import CHECK_FILE
from training.run.directory import Run
from training.run.metrics import METRICS_FILE
from training.run.weights import LAST_WEIGHTS


def test_a_network_is_trained_once(laboratory: Laboratory) -> None:
    """Another laboratory with the same folder reads the same weights."""
    first = laboratory.train("resnet20", 0)
    written = (first.directory.path / LAST_WEIGHTS).stat().st_mtime_ns
    again = laboratory_at(laboratory.runs).train("resnet20", 0)
    assert again.directory.path == first.directory.path
    assert (again.directory.path / LAST_WEIGHTS).stat().st_mtime_ns == written


def test_a_run_directory_is_named_after_what_the_training_depends_on(
    laboratory: Laboratory,
) -> None:
    longer = laboratory_at(laboratory.runs, lambda: False, "iterations=13")
    names = [
        laboratory.directory("resnet20", 0).run_id,
        laboratory.directory("resnet20", 1).run_id,
        laboratory.directory("plain20", 0).run_id,
        longer.directory("resnet20", 0).run_id,
    ]
    assert len(set(names)) == 4
    assert names[0].startswith("resnet20-seed0-")


def test_digests_do_not_change_between_versions() -> None:
    """They name the runs and measurements of earlier versions."""
    assert digest({"b": [1, 2.5], "a": "x"}) == digest({"a": "x", "b": (1, 2.5)}) == "0acd2d90"


def test_the_test_split_is_measured_after_every_epoch(laboratory: Laboratory) -> None:
    """The weights of the last epoch count."""
    run = laboratory.train("resnet20", 0)
    assert [line["step"] for line in run.history] == [10, 12]
    assert all(0 <= line["test_top1"] <= 1 and line["test_loss"] > 0 for line in run.history)
    assert run.final_metric("test_top1") == run.history[1]["test_top1"]
    assert run.final_metric("test_loss") != run.history[0]["test_loss"]
    assert (run.architecture, run.seed) == ("resnet20", 0)
    assert run.config.recipe.select == "last"
    assert run.trained.epoch == 2


def test_a_resumed_training_gives_the_same_curve_and_weights(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    """It is interrupted within the first and within the second epoch."""
    whole = laboratory.train("resnet20", 0)
    for stop in (4, 7):
        steps = count(1)
        interrupted = laboratory_at(tmp_path, lambda steps=steps, stop=stop: next(steps) >= stop)
        with pytest.raises(InterruptedRunError):
            interrupted.train("resnet20", 0)
    resumed = laboratory_at(tmp_path).train("resnet20", 0)
    assert resumed.training_curve() == whole.training_curve()
    weights = [(run.directory.path / LAST_WEIGHTS).read_bytes() for run in (resumed, whole)]
    assert weights[0] == weights[1]


def test_all_networks_of_the_first_seed_are_trained_first(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, int]] = []
    monkeypatch.setattr(Laboratory, "train", lambda _, *network: trained.append(network[:2]))
    laboratory.train_all(["plain20", "resnet20"], [3, 1])
    assert trained == [("plain20", 3), ("resnet20", 3), ("plain20", 1), ("resnet20", 1)]


def test_each_network_is_numbered_and_knows_the_networks_after_it(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks that are trained already take no time."""
    laboratory.train("plain20", 0)
    places = []

    def train(_: Laboratory, run: Run, place: str, following: Sequence[str]) -> None:
        places.append((run.config.architecture, run.config.seed, place, following))
        raise InterruptedRunError("stopped")

    monkeypatch.setattr(Laboratory, "_train", train)
    with pytest.raises(InterruptedRunError):
        laboratory.train_all(["plain20", "plain44"], [7, 0])  # no other test trains plain44
    assert places == [("plain20", 7, "network 1 of 4", ["plain44", "plain44"])]


def test_a_training_takes_time_in_proportion_to_its_depth() -> None:
    """Half of 20 layers in 10 s: 10 s are left, and 20 and 56 layers take 20 s and 56 s."""
    assert seconds_of_all(10, 0.5, "plain20", ["resnet20", "resnet56"]) == pytest.approx(86)


def test_networks_that_cannot_be_compared_are_rejected(laboratory: Laboratory) -> None:
    with pytest.raises(RecipeError, match="resnet18"):
        laboratory.check_networks(["resnet20", "resnet18"])
    mixing = laboratory_at(laboratory.runs, lambda: False, "mixing.mixup=0.2")
    with pytest.raises(RecipeError, match=r"mixing\.mixup=0"):
        mixing.check_networks(["resnet20"])


def test_a_measurement_is_kept_by_what_it_depends_on(tmp_path: Path) -> None:
    laboratory, calls = laboratory_at(tmp_path), count()
    assert laboratory.measure_once("something", {"of": 1}, lambda: [next(calls), 0.1]) == [0, 0.1]
    assert laboratory.measure_once("something", {"of": 1}, lambda: [next(calls), 0.1]) == [0, 0.1]
    assert laboratory.measure_once("something", {"of": 2}, lambda: [next(calls), 0.1]) == [1, 0.1]
    files = sorted((tmp_path / ".measurements").iterdir())
    assert len(files) == 2
    for path in files:
        path.write_text(json.dumps(["no", "measurement"]))
    with pytest.raises(RunError, match="something"):
        laboratory.measure_once("something", {"of": 1}, lambda: 0)


def test_iterating_stops_when_asked(laboratory: Laboratory) -> None:
    assert list(laboratory.iterate("count", [1, 2])) == [1, 2]
    with pytest.raises(InterruptedRunError, match="0 of 2"):
        next(interrupted_copy(laboratory).iterate("count", [1, 2]))


def test_measurements_depend_on_weights_and_data(laboratory: Laboratory, tmp_path: Path) -> None:
    run = laboratory.train("resnet20", 0)
    path = shutil.copytree(run.directory.path, tmp_path / run.directory.run_id)
    copied = replace(run, directory=Run.open(path))
    assert copied.measurement_key() == run.measurement_key()
    (path / LAST_WEIGHTS).write_bytes(b"others")
    weights = hashlib.sha256(b"others").hexdigest()
    assert copied.measurement_key() == run.measurement_key() | {"weights": weights}
    (path / CHECK_FILE).write_text(json.dumps({"data_digest": "other"}))
    assert copied.measurement_key()["data"] == "other" != run.data_digest


def test_a_run_trained_partly_by_another_command_is_rejected(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    """`resume` does not measure the test error after each epoch."""
    run = laboratory.train("resnet20", 0).directory
    shutil.copytree(run.path, tmp_path / run.run_id)
    lines = [json.loads(line) for line in (run.path / METRICS_FILE).read_text().splitlines()]
    del lines[-1]["test_top1"]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / run.run_id / METRICS_FILE).write_text(text)
    with pytest.raises(RunError, match="partly trained"):
        laboratory_at(tmp_path).train("resnet20", 0)


def test_a_run_of_other_data_is_rejected(laboratory: Laboratory, tmp_path: Path) -> None:
    """A folder may have the same name and other images."""
    run = laboratory.train("resnet20", 0).directory
    shutil.copytree(run.path, tmp_path / run.run_id)
    checked = json.loads((run.path / CHECK_FILE).read_text()) | {"data_digest": "other"}
    (tmp_path / run.run_id / CHECK_FILE).write_text(json.dumps(checked))
    with pytest.raises(RunError, match="trained on other data than digits"):
        laboratory_at(tmp_path).train("resnet20", 0)


def test_model_names_have_safe_characters_only(tmp_path: Path) -> None:
    assert laboratory_at(tmp_path).config("resnet20", 0).model == "digits-resnet20"
    assert model_name("My Photos (2)", "resnet20") == "My-Photos-2-resnet20"
    assert model_name("...", "resnet20") == "data-resnet20"


def test_sample_images_come_from_their_split(laboratory: Laboratory) -> None:
    run = laboratory.train("resnet20", 0)
    test = split_indices(run.directory)["test"]
    sample = SampleTestImages(laboratory, run, 5)
    assert len(sample) == len(set(sample.indices.tolist())) == 5
    assert set(sample.indices.tolist()) <= set(test)
    assert len(SampleTestImages(laboratory, run, 10_000)) == len(test)
    assert sample.measurement_key(run)["images"] == 5
    data = laboratory.data(run)
    assert [int(label) for label in sample.labels[0]] == data.labels(sample.indices).tolist()
    images, labels = sample_training_images(laboratory, run, 7)
    assert images.shape[0] == labels.shape[0] == 7
    (pixels,) = data.chunks(data.training_indices[:1])
    first = run.trained.normalize(torch.from_numpy(pixels))
    assert np.allclose(images[0].numpy(), first[0].numpy())
