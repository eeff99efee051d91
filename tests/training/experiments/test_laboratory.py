"""The laboratory: a network is trained once, a training that was cut goes on, a measurement is kept."""

import hashlib
import json
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from laboratories import laboratory_at

from training.errors import InterruptedRunError, RunError
from training.experiments.laboratory import Laboratory, model_name
from training.run.data import CHECK_FILE
from training.run.directory import RunDirectory
from training.run.weights import LAST_WEIGHTS
from training.steps.train import METRICS_FILE


def test_a_network_is_trained_once(laboratory: Laboratory) -> None:
    """The second time it is read: the file of its weights is the same one, and a laboratory beside it finds it too."""
    first = laboratory.train("resnet20", 0)
    written = (first.directory.path / LAST_WEIGHTS).stat().st_mtime_ns
    again = laboratory_at(laboratory.runs).train("resnet20", 0)
    assert again.directory.path == first.directory.path
    assert (again.directory.path / LAST_WEIGHTS).stat().st_mtime_ns == written


def test_what_a_training_depends_on_is_in_its_name(laboratory: Laboratory) -> None:
    """Another seed, network or recipe is another run."""
    longer = laboratory_at(laboratory.runs, lambda: False, "iterations=13")
    names = [
        laboratory.directory("resnet20", 0).run_id,
        laboratory.directory("resnet20", 1).run_id,
        laboratory.directory("plain20", 0).run_id,
        longer.directory("resnet20", 0).run_id,
    ]
    assert len(set(names)) == 4


def test_the_test_split_is_measured_after_every_epoch_and_chooses_nothing(
    laboratory: Laboratory,
) -> None:
    """Each epoch has its figures, and the weights that count are the last epoch's."""
    run = laboratory.train("resnet20", 0)
    assert [line["step"] for line in run.history] == [10, 12]
    assert all(0 <= line["test_top1"] <= 1 and line["test_loss"] > 0 for line in run.history)
    assert run.config.recipe.select == "last"
    assert run.trained.epoch == 2


def test_a_training_that_was_cut_goes_on_to_the_same_curve_and_weights(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    """Stopped in the middle of the first epoch and in the second: no point is lost, doubled or different."""
    whole = laboratory.train("resnet20", 0)
    for stop in (4, 7):
        steps = count(1)
        with pytest.raises(InterruptedRunError):
            laboratory_at(tmp_path, lambda steps=steps, stop=stop: next(steps) >= stop).train(
                "resnet20", 0
            )
    resumed = laboratory_at(tmp_path).train("resnet20", 0)
    assert resumed.curve() == whole.curve()
    assert (resumed.directory.path / LAST_WEIGHTS).read_bytes() == (
        whole.directory.path / LAST_WEIGHTS
    ).read_bytes()


def test_a_measurement_is_kept_by_what_it_depends_on(tmp_path: Path) -> None:
    """The same again is read, another is measured, a damaged file is said."""
    laboratory, calls = laboratory_at(tmp_path), count()
    assert laboratory.measured("something", {"of": 1}, lambda: [next(calls), 0.1]) == [0, 0.1]
    assert laboratory.measured("something", {"of": 1}, lambda: [next(calls), 0.1]) == [0, 0.1]
    assert laboratory.measured("something", {"of": 2}, lambda: [next(calls), 0.1]) == [1, 0.1]
    kept = sorted((tmp_path / ".measurements").iterdir())
    assert len(kept) == 2
    for path in kept:
        path.write_text(json.dumps(["not", "one"]))
    with pytest.raises(RunError, match="damaged"):
        laboratory.measured("something", {"of": 1}, lambda: 0)


def test_a_run_is_told_by_its_weights_and_its_data(laboratory: Laboratory, tmp_path: Path) -> None:
    """Other weights under the same name are another identity: what was measured of the first is not read for them."""
    run = laboratory.train("resnet20", 0)
    copied = replace(
        run,
        directory=RunDirectory(
            shutil.copytree(run.directory.path, tmp_path / run.directory.run_id)
        ),
    )
    assert copied.identity() == run.identity()
    (copied.directory.path / LAST_WEIGHTS).write_bytes(b"others")
    assert copied.identity() == run.identity() | {"weights": hashlib.sha256(b"others").hexdigest()}
    (copied.directory.path / CHECK_FILE).write_text(json.dumps({"data_digest": "other"}))
    assert copied.identity()["data"] == "other" != run.data_digest


def test_a_run_that_something_else_trained_in_part_is_said(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    """`resume` finishes a run without the test error by epoch."""
    run = laboratory.train("resnet20", 0).directory
    shutil.copytree(run.path, tmp_path / run.run_id)
    lines = [json.loads(line) for line in (run.path / METRICS_FILE).read_text().splitlines()]
    del lines[-1]["test_top1"]
    (tmp_path / run.run_id / METRICS_FILE).write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    with pytest.raises(RunError, match="curves have gaps"):
        laboratory_at(tmp_path).train("resnet20", 0)


def test_a_run_that_learned_from_other_data_is_said(laboratory: Laboratory, tmp_path: Path) -> None:
    """The folder has the name of before, and other pictures."""
    run = laboratory.train("resnet20", 0).directory
    shutil.copytree(run.path, tmp_path / run.run_id)
    checked = json.loads((run.path / CHECK_FILE).read_text())
    (tmp_path / run.run_id / CHECK_FILE).write_text(
        json.dumps(checked | {"data_digest": "of another day"})
    )
    with pytest.raises(RunError, match="has learned from other data than digits holds now"):
        laboratory_at(tmp_path).train("resnet20", 0)


def test_data_of_any_name_may_be_trained_on(tmp_path: Path) -> None:
    """A model's name has letters, digits and a few marks alone."""
    assert laboratory_at(tmp_path).config("resnet20", 0).model == "digits-resnet20"
    assert model_name("My Photos (2)", "resnet20") == "My-Photos-2-resnet20"
    assert model_name("...", "resnet20") == "data-resnet20"
