"""Calibration: fitted on the validation split and measured on the test split."""

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


def random_logits(
    images: int, temperature: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits times `temperature`, and labels drawn from the unscaled softmax."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(images, CLASSES)) * 2.5
    cumulative = softmax(logits, axis=1).cumsum(axis=1)
    labels = (generator.random((images, 1)) > cumulative[:, :-1]).sum(axis=1)
    return (logits * temperature).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_fit_finds_the_temperature_of_the_logits(temperature: float) -> None:
    """It also lowers the calibration error on new images."""
    assert fit_temperature(*random_logits(4000, temperature)) == pytest.approx(
        temperature, rel=0.06
    )
    fitted, _ = fit_calibration(*random_logits(4000, temperature))
    figures = measure_calibration(fitted, *random_logits(4000, temperature, seed=1))
    assert figures.ece_after < 0.03
    assert figures.ece_after < figures.ece_before or temperature == 1


def test_the_temperature_stays_positive_without_mistakes() -> None:
    """The plain likelihood would be best at 0. The fit adds one image with a uniform label."""
    logits, _ = random_logits(200)
    temperature = fit_temperature(logits, logits.argmax(1))
    assert temperature > 2 * calibration._TEMPERATURE_BOUNDS[0]
    assert softmax(logits / temperature, axis=1).max(axis=1).min() < 0.99


@pytest.mark.parametrize("coverage", calibration.COVERAGES)
def test_prediction_sets_contain_the_label_as_often_as_requested(coverage: str) -> None:
    """The mean coverage of new images over many fits, within three standard errors."""
    requested, coverages = float(coverage), []
    for seed in range(60):
        logits, labels = random_logits(99, seed=seed)
        threshold = conformal_threshold(softmax(logits, axis=1)[np.arange(99), labels], coverage)
        new, new_labels = random_logits(500, seed=1000 + seed)
        assert threshold is not None
        coverages.append((softmax(new, axis=1)[np.arange(500), new_labels] >= threshold).mean())
    error = 3 * np.std(coverages) / math.sqrt(len(coverages))
    assert requested - error < np.mean(coverages) < requested + 0.01 + error


def test_the_finite_sample_correction_is_exact() -> None:
    """For 0.95, 19 images have a threshold, the smallest probability; 18 images have none."""
    of_label = np.linspace(0.1, 0.9, 19, dtype=np.float32)
    assert conformal_threshold(of_label, "0.95") == pytest.approx(0.1)
    assert conformal_threshold(of_label[1:], "0.95") is None
    assert conformal_threshold(of_label, "0.8") == of_label[3]


@given(st.integers(1, 3000))
def test_few_images_abstain_at_most_as_often_as_allowed(images: int) -> None:
    """At most 3 % of these images, and with 95 % confidence at most 5 % of others."""
    energies = np.random.default_rng(images).permutation(np.arange(images, dtype=np.float32))
    threshold = fit_energy_threshold(energies)
    assert (threshold is None) == (images < 59)
    if threshold is not None:
        abstained = int((energies > threshold).sum())
        assert abstained / images <= calibration.ABSTENTION_TARGET
        assert binom.cdf(abstained, images, calibration.ABSTENTION_LIMIT) <= 0.05


def test_three_percent_of_many_images_abstain() -> None:
    energies = np.arange(5000, dtype=np.float32)
    threshold = fit_energy_threshold(energies)
    assert threshold is not None
    assert (energies > threshold).mean() == 0.03


def test_too_few_images_omit_values_with_a_notice() -> None:
    """15 images have a temperature and prediction sets for 0.8 and 0.9."""
    fitted, notices = fit_calibration(*random_logits(15))
    assert fitted.energy_threshold is None
    assert set(fitted.conformal_thresholds) == {"0.8", "0.9"}
    assert [notice.partition(":")[0] for notice in notices] == [
        "the model cannot abstain",
        "no prediction sets for coverage 0.95",
    ]
    figures = measure_calibration(fitted, *random_logits(50, seed=1))
    assert figures.abstained is None
    assert set(figures.sets) == {"0.8", "0.9"}


def test_a_run_is_calibrated_on_validation_and_measured_on_test(run_copy: Run) -> None:
    """The calibration in the manifest has the figures of the test split."""
    data = open_run_data(run_copy)
    result = calibrate(run_copy, data)
    trained = load_trained(run_copy)
    logits = predict_split(
        trained.inference_network, data, data.split.validation, trained.normalize
    ).numpy()
    labels = data.images.labels[data.split.validation]
    assert result == read_calibration(run_copy)
    assert result.calibration is not None
    assert result.test is not None
    assert result.validation == measure_calibration(result.calibration, logits, labels)
    assert result.test == measure_calibration(
        result.calibration, read_logits(run_copy), read_labels(run_copy)
    )
    assert result.calibration.temperature == fit_temperature(logits, labels)
    assert result.calibration.energy_threshold in energy(logits)
    assert result.calibration.fitted_on == "validation split, 179 images"
    assert result.calibration.ece_after == result.test.ece_after < result.test.ece_before
    assert set(result.calibration.coverages) == {"0.8", "0.9", "0.95"}


def test_images_known_to_an_earlier_version_are_not_used(
    run_copy: Run,
) -> None:
    """If no image is left, there is a notice instead of a calibration."""
    data = open_run_data(run_copy)
    validation = data.split.validation

    def mark_as_known(indices: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(
            buffer,
            np.array([int(data.scan.facts[index].digest[:16], 16) for index in indices], np.uint64),
        )
        run_copy.write(KNOWN_IMAGES_FILE, buffer.getvalue())

    mark_as_known(validation[:79])
    result = calibrate(run_copy, data)
    assert result.validation is not None
    assert result.validation.images == 100
    mark_as_known(validation)
    (notice,) = calibrate(run_copy, data).notices
    assert notice.startswith("not calibrated")
    assert read_calibration(run_copy).calibration is None


def test_coverage_that_fails_on_test_is_a_notice(run_copy: Run) -> None:
    """As if the test split were much harder than validation. The values are kept."""
    run_copy.write("evaluation.npz", spoiled_evaluation(run_copy, 1.0, 0.3))
    result = calibrate(run_copy, open_run_data(run_copy))
    assert result.calibration is not None
    assert any("coverage 0.95" in notice for notice in result.notices)


def trained_on_validation(run: Run) -> Run:
    """Return the same run, as if it had also trained on its validation images."""
    config = run.config
    recipe = config.recipe.model_copy(update={"learn_validation": True, "select": "last"})
    return Run.create_at(run.path, config.model_copy(update={"recipe": recipe}))


def test_a_run_trained_on_its_validation_images_is_not_calibrated(
    run_copy: Run,
) -> None:
    """The notice names `--twin`."""
    result = calibrate(trained_on_validation(run_copy), open_run_data(run_copy))
    assert result == read_calibration(run_copy)
    assert (result.calibration, result.validation, result.test) == (None, None, None)
    assert "--twin" in result.notices[0]


def test_a_run_can_take_the_calibration_of_its_twin(run_copy: Run, finished_run: Run) -> None:
    """It is measured on the test split of the run, and names the twin."""
    of_twin = read_calibration(finished_run)
    run_copy.write("evaluation.npz", spoiled_evaluation(run_copy, 0.9))
    result = take_calibration(trained_on_validation(run_copy), finished_run)
    assert result == read_calibration(run_copy)
    assert result.calibration is not None
    assert of_twin.calibration is not None
    assert result.calibration.temperature == of_twin.calibration.temperature
    assert result.calibration.energy_threshold == of_twin.calibration.energy_threshold
    assert (
        result.calibration.fitted_on == f"validation split, 179 images of run {finished_run.run_id}"
    )
    assert result.validation == of_twin.validation
    assert (
        result.test
        == measure_calibration(of_twin.calibration, read_logits(run_copy), read_labels(run_copy))
        != of_twin.test
    )
    assert result.twin == finished_run.run_id


def test_the_command_takes_the_calibration_of_a_twin(run_copy: Run, finished_run: Run) -> None:
    """Exit code 1 for a run that needs no twin; a table with the temperature otherwise."""
    arguments = ["calibrate", str(run_copy.path), "--twin", str(finished_run.path)]
    rejected = CliRunner().invoke(main, arguments)
    assert rejected.exit_code == 1
    assert "without --twin" in rejected.stderr
    trained_on_validation(run_copy)
    without_twin = CliRunner().invoke(main, arguments[:2])
    assert without_twin.exit_code == 0
    assert "not calibrated" in without_twin.stdout
    taken = CliRunner().invoke(main, arguments)
    assert taken.exit_code == 0, taken.stderr
    calibration_values = read_calibration(run_copy).calibration
    assert calibration_values is not None
    assert f"calibration, temperature {calibration_values.temperature:.3f}" in taken.stdout


@pytest.mark.parametrize(
    ("factor", "wrong", "fault"),
    [
        (0.3, 0.0, "would abstain"),
        (1.0, 0.3, "coverage 0.95"),
        (1.5, 0.3, "calibration error"),
    ],
)
def test_a_calibration_that_fails_on_test_is_not_taken(
    run_copy: Run, finished_run: Run, factor: float, wrong: float, fault: str
) -> None:
    """The error names the failed promise, and the previous calibration is kept."""
    before = read_calibration(run_copy)
    run_copy.write("evaluation.npz", spoiled_evaluation(run_copy, factor, wrong))
    with pytest.raises(CalibrationError, match=fault):
        take_calibration(trained_on_validation(run_copy), finished_run)
    assert read_calibration(run_copy) == before


def test_only_a_calibrated_twin_is_accepted(
    run_copy: Run, finished_run: Run, new_run: Callable[..., Run]
) -> None:
    """Another recipe, a twin without calibration, and a run that needs no twin are errors."""
    with pytest.raises(CalibrationError, match="without --twin"):
        take_calibration(run_copy, finished_run)
    run_copy = trained_on_validation(run_copy)
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
    """The digests of the data differ."""
    twin = Run.open(Path(shutil.copytree(finished_run.path, tmp_path / "twin")))
    twin.write_json("check.json", {**twin.read_json("check.json", "check"), "data_digest": "0"})
    with pytest.raises(CalibrationError, match=r"differ in data$"):
        take_calibration(trained_on_validation(run_copy), twin)


@pytest.mark.parametrize(
    ("share", "images", "fitted_on", "bound"),
    [(0.05, 400, 100, 0.05 + 2.33 * 0.0243670), (0.2, 50, 10_000, 0.2 + 2.33 * 0.0567098)],
)
def test_the_largest_share_by_chance_has_the_variance_of_both_samples(
    share: float, images: int, fitted_on: int, bound: float
) -> None:
    """One-sided, at 1 %."""
    assert largest_share_by_chance(share, images, fitted_on) == pytest.approx(bound, abs=1e-5)


def test_a_damaged_calibration_is_an_error_that_names_the_file(run_copy: Run) -> None:
    run_copy.write("calibration.json", b"{")
    with pytest.raises(RunError, match=r"calibration\.json is damaged"):
        read_calibration(run_copy)


def spoiled_evaluation(run: Run, factor: float, wrong: float = 0.0) -> bytes:
    """Return the file of `evaluate` with scaled logits and a share of wrong labels."""
    labels = read_labels(run)
    count = round(wrong * len(labels))
    labels[:count] = (labels[:count] + 1) % CLASSES
    buffer = io.BytesIO()
    np.savez_compressed(buffer, logits=read_logits(run) * np.float32(factor), labels=labels)
    return buffer.getvalue()
