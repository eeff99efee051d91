"""Calibration: fitted on validation, held to what it promises on images that were not there."""

import io
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import binom

from model_store.uncertainty import energy
from training.__main__ import main
from training.errors import CalibrationError, RunError
from training.run.data import open_run_data
from training.run.directory import Run
from training.run.inference import predict_split
from training.run.known_images import KNOWN_IMAGES_FILE
from training.run.weights import load_trained
from training.steps import calibration_fit as calibration
from training.steps.calibrate import RunCalibration, calibrate, read_calibration, take_calibration
from training.steps.calibration_fit import (
    conformal_threshold,
    fit_calibration,
    fit_energy_threshold,
    fit_temperature,
    largest_share_by_chance,
    measure_calibration,
)
from training.steps.evaluate import read_labels, read_logits

CLASSES = 10


def answers(images: int, temperature: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that say how likely each label is, times `temperature`, and labels drawn just so."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(size=(images, CLASSES)) * 2.5
    labels = np.array([chance.choice(CLASSES, p=row) for row in softmax(logits, axis=1)])
    return (logits * temperature).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_logits_were_spoilt_with_is_found(temperature: float) -> None:
    """Too sure or not sure enough, the fit undoes it, and the calibration error goes down with it on new images."""
    assert fit_temperature(*answers(4000, temperature)) == pytest.approx(temperature, rel=0.06)
    fitted, _ = fit_calibration(*answers(4000, temperature))
    figures = measure_calibration(fitted, *answers(4000, temperature, seed=1))
    assert figures.ece_after < 0.03
    assert figures.ece_after < figures.ece_before or temperature == 1


def test_a_split_without_a_mistake_does_not_make_the_network_certain() -> None:
    """Plain likelihood would go to a temperature of 0; one image whose label could be any keeps it from there."""
    logits, _ = answers(200)
    temperature = fit_temperature(logits, logits.argmax(1))
    assert temperature > 2 * calibration._TEMPERATURE_BOUNDS[0]
    assert softmax(logits / temperature, axis=1).max(axis=1).min() < 0.99


@pytest.mark.parametrize("coverage", calibration.COVERAGES)
def test_sets_hold_the_label_as_often_as_promised(coverage: str) -> None:
    """Over many fits on few images the mean coverage of new ones is what was asked for, and hardly more."""
    promised, found = float(coverage), []
    for seed in range(60):
        logits, labels = answers(99, seed=seed)
        threshold = conformal_threshold(softmax(logits, axis=1)[np.arange(99), labels], coverage)
        new, new_labels = answers(500, seed=1000 + seed)
        assert threshold is not None
        found.append((softmax(new, axis=1)[np.arange(500), new_labels] >= threshold).mean())
    error = 3 * np.std(found) / math.sqrt(len(found))
    assert promised - error < np.mean(found) < promised + 0.01 + error


def test_the_finite_sample_correction_is_exact() -> None:
    """Of 19 images the smallest probability is the threshold for 0.95, of 18 there is none."""
    of_label = np.linspace(0.1, 0.9, 19, dtype=np.float32)
    assert conformal_threshold(of_label, "0.95") == pytest.approx(0.1)
    assert conformal_threshold(of_label[1:], "0.95") is None
    assert conformal_threshold(of_label, "0.8") == of_label[3]


@given(st.integers(1, 3000))
def test_no_more_than_asked_for_are_refused_of_few_images(images: int) -> None:
    """At most 3 % of the images fitted on, and so few that it is sure that of others it is 5 % at most; under 59 none can be."""
    energies = np.random.default_rng(images).permutation(np.arange(images, dtype=np.float32))
    threshold = fit_energy_threshold(energies)
    assert (threshold is None) == (images < 59)
    if threshold is not None:
        refused = int((energies > threshold).sum())
        assert refused / images <= calibration.ABSTENTION_TARGET
        assert binom.cdf(refused, images, calibration.ABSTENTION_LIMIT) <= 0.05


def test_of_many_images_three_in_a_hundred_are_refused() -> None:
    """Not fewer than asked for either."""
    energies = np.arange(5000, dtype=np.float32)
    threshold = fit_energy_threshold(energies)
    assert threshold is not None
    assert (energies > threshold).mean() == 0.03


def test_what_too_few_images_can_not_say_is_left_out_and_said() -> None:
    """Of 15 images: a temperature, sets for 0.8 and 0.9, and the reason why nothing else."""
    fitted, notices = fit_calibration(*answers(15))
    assert fitted.energy_threshold is None
    assert set(fitted.conformal_thresholds) == {"0.8", "0.9"}
    assert [notice.partition(":")[0] for notice in notices] == [
        "the model cannot abstain",
        "no prediction sets for coverage 0.95",
    ]
    figures = measure_calibration(fitted, *answers(50, seed=1))
    assert figures.abstained is None
    assert set(figures.sets) == {"0.8", "0.9"}


def test_a_run_is_calibrated_on_validation_and_measured_on_test(run_copy: Run) -> None:
    """The figures are those of the network's logits on the two splits, and the manifest's block has those on test."""
    data = open_run_data(run_copy)
    found = calibrate(run_copy, data)
    trained = load_trained(run_copy)
    logits = predict_split(
        trained.answering, data, data.split.validation, trained.normalize
    ).numpy()
    labels = data.images.labels[data.split.validation]
    assert found == read_calibration(run_copy)
    assert found.calibration is not None
    assert found.test is not None
    assert found.validation == measure_calibration(found.calibration, logits, labels)
    assert found.test == measure_calibration(
        found.calibration, read_logits(run_copy), read_labels(run_copy)
    )
    assert found.calibration.temperature == fit_temperature(logits, labels)
    assert found.calibration.energy_threshold in energy(logits)
    assert found.calibration.fitted_on == "validation split, 179 images"
    assert found.calibration.ece_after == found.test.ece_after < found.test.ece_before
    assert set(found.calibration.coverages) == {"0.8", "0.9", "0.95"}


def test_images_that_an_earlier_version_learned_are_not_calibrated_on(
    run_copy: Run,
) -> None:
    """They are left out of validation; where none is left there is a notice instead."""
    data = open_run_data(run_copy)
    validation = data.split.validation

    def know(indices: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(
            buffer,
            np.array([int(data.scan.facts[index].digest[:16], 16) for index in indices], np.uint64),
        )
        run_copy.write(KNOWN_IMAGES_FILE, buffer.getvalue())

    know(validation[:79])
    found = calibrate(run_copy, data)
    assert found.validation is not None
    assert found.validation.images == 100
    know(validation)
    (notice,) = calibrate(run_copy, data).notices
    assert notice.startswith("not calibrated")
    assert read_calibration(run_copy).calibration is None


def test_what_does_not_hold_on_test_is_said(run_copy: Run) -> None:
    """A test split that is much harder than validation: the values are there, and so is the notice."""
    run_copy.write("evaluation.npz", spoilt(run_copy, 1.0, 0.3))
    found = calibrate(run_copy, open_run_data(run_copy))
    assert found.calibration is not None
    assert any("coverage 0.95" in notice for notice in found.notices)


def learned_validation(run: Run) -> Run:
    """The same run, as if it had trained on its validation images too."""
    config = run.config
    recipe = config.recipe.model_copy(update={"learn_validation": True, "select": "last"})
    return Run.create_at(run.path, config.model_copy(update={"recipe": recipe}))


def test_a_run_that_learned_its_validation_images_is_not_calibrated_on_them(
    run_copy: Run,
) -> None:
    """It leaves a notice that says what to do, and no values."""
    found = calibrate(learned_validation(run_copy), open_run_data(run_copy))
    assert found == read_calibration(run_copy)
    assert (found.calibration, found.validation, found.test) == (None, None, None)
    assert "--twin" in found.notices[0]


def test_it_takes_the_values_of_its_twin(run_copy: Run, finished_run: Run) -> None:
    """Those of a run of the same recipe that did not learn them, measured on its own test split, and the manifest says whose."""
    theirs = read_calibration(finished_run)
    run_copy.write("evaluation.npz", spoilt(run_copy, 0.9))
    found = take_calibration(learned_validation(run_copy), finished_run)
    assert found == read_calibration(run_copy)
    assert found.calibration is not None
    assert theirs.calibration is not None
    assert found.calibration.temperature == theirs.calibration.temperature
    assert found.calibration.energy_threshold == theirs.calibration.energy_threshold
    assert (
        found.calibration.fitted_on == f"validation split, 179 images of run {finished_run.run_id}"
    )
    assert found.validation == theirs.validation
    assert (
        found.test
        == measure_calibration(theirs.calibration, read_logits(run_copy), read_labels(run_copy))
        != theirs.test
    )
    assert found.twin == finished_run.run_id


def test_the_command_shows_what_was_taken_and_says_why_not(
    run_copy: Run, finished_run: Run
) -> None:
    """Exit code 1 and one line for a run that needs no twin; a table with the temperature for one that does."""
    words = ["calibrate", str(run_copy.path), "--twin", str(finished_run.path)]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 1
    assert "without --twin" in refused.stderr
    learned_validation(run_copy)
    alone = CliRunner().invoke(main, words[:2])
    assert alone.exit_code == 0
    assert "not calibrated" in alone.stdout
    taken = CliRunner().invoke(main, words)
    assert taken.exit_code == 0, taken.stderr
    found = read_calibration(run_copy).calibration
    assert found is not None
    assert f"calibration, temperature {found.temperature:.3f}" in taken.stdout


@pytest.mark.parametrize(
    ("factor", "wrong", "fault"),
    [
        (0.3, 0.0, "would abstain"),
        (1.0, 0.3, "coverage 0.95"),
        (1.5, 0.3, "calibration error"),
    ],
)
def test_values_that_do_not_hold_are_not_taken(
    run_copy: Run, finished_run: Run, factor: float, wrong: float, fault: str
) -> None:
    """A network that is less sure, more often wrong or surer than it may be is an error, and what was there is kept."""
    before = read_calibration(run_copy)
    run_copy.write("evaluation.npz", spoilt(run_copy, factor, wrong))
    with pytest.raises(CalibrationError, match=fault):
        take_calibration(learned_validation(run_copy), finished_run)
    assert read_calibration(run_copy) == before


def test_only_a_twin_gives_its_values(
    run_copy: Run, finished_run: Run, new_run: Callable[..., Run]
) -> None:
    """Refused: for a run that can be calibrated itself, from one that can not, from another recipe, before it was calibrated."""
    with pytest.raises(CalibrationError, match="without --twin"):
        take_calibration(run_copy, finished_run)
    run_copy = learned_validation(run_copy)
    with pytest.raises(CalibrationError, match="name a run that was not"):
        take_calibration(run_copy, run_copy)
    other = new_run("epochs=3", "batch_size=32", architecture="resnet32")
    open_run_data(other)
    with pytest.raises(CalibrationError, match=r"they differ in architecture, recipe\.batch_size"):
        take_calibration(run_copy, other)
    twin = new_run("epochs=3")
    open_run_data(twin)
    with pytest.raises(RunError, match="training calibrate"):
        take_calibration(run_copy, twin)
    twin.write("calibration.json", RunCalibration(notices=("none",)).model_dump_json().encode())
    with pytest.raises(CalibrationError, match="none"):
        take_calibration(run_copy, twin)


def test_a_run_on_other_data_is_no_twin(run_copy: Run, finished_run: Run, tmp_path: Path) -> None:
    """Their data digests differ."""
    twin = Run.open(Path(shutil.copytree(finished_run.path, tmp_path / "twin")))
    twin.write_json("check.json", {**twin.read_json("check.json", "check"), "data_digest": "0"})
    with pytest.raises(CalibrationError, match=r"differ in data$"):
        take_calibration(learned_validation(run_copy), twin)


@pytest.mark.parametrize(
    ("share", "images", "fitted_on", "bound"),
    [(0.05, 400, 100, 0.05 + 2.33 * 0.0243670), (0.2, 50, 10_000, 0.2 + 2.33 * 0.0567098)],
)
def test_the_bound_of_chance_has_the_variance_of_both_samples(
    share: float, images: int, fitted_on: int, bound: float
) -> None:
    """One-sided, at one in a hundred."""
    assert largest_share_by_chance(share, images, fitted_on) == pytest.approx(bound, abs=1e-5)


def test_damage_is_said(run_copy: Run) -> None:
    """A calibration.json that is none names the file."""
    run_copy.write("calibration.json", b"{")
    with pytest.raises(RunError, match=r"calibration\.json is damaged"):
        read_calibration(run_copy)


def spoilt(run: Run, factor: float, wrong: float = 0.0) -> bytes:
    """The run's logits times a factor, a share of the labels wrong, as `evaluate` would have left them."""
    labels = read_labels(run)
    count = round(wrong * len(labels))
    labels[:count] = (labels[:count] + 1) % CLASSES
    buffer = io.BytesIO()
    np.savez_compressed(buffer, logits=read_logits(run) * np.float32(factor), labels=labels)
    return buffer.getvalue()
