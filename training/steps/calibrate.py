"""Calibration: fitted on the validation split, measured on the test split."""

from collections.abc import Iterator
from typing import Final

from pydantic import ValidationError

from model_store.manifest import Calibration
from training.errors import CalibrationError
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.data import CHECK_FILE, RunData
from training.run.directory import Run, RunDirectory, damaged_file_error
from training.run.inference import predict_split
from training.run.known_images import is_known_image, read_known_images
from training.run.weights import load_trained
from training.steps.calibration_fit import (
    CalibrationFigures,
    CalibrationModel,
    calibration_faults,
    fit_calibration,
    measure_calibration,
)
from training.steps.evaluate import read_labels, read_logits

CALIBRATION_FILE: Final = "calibration.json"
_TWIN_DIFFERENCES: Final = frozenset({"learn_validation", "select", "accuracy_floor"})
"""Values of the recipe that may differ between twins."""


class RunCalibration(CalibrationModel):
    """The content of `calibration.json`.

    Attributes:
        calibration: The block of the manifest; None if nothing could be fitted.
        validation: Figures on the images that it was fitted on.
        test: Figures on the test split.
        twin: The run that the calibration was taken from, if this run trained on validation images.
        notices: Values that could not be fitted, or are worse on the test split than promised.
    """

    calibration: Calibration | None = None
    validation: CalibrationFigures | None = None
    test: CalibrationFigures | None = None
    twin: str | None = None
    notices: tuple[str, ...] = ()


def calibrate(
    run: Run, data: RunData, process: DistributedProcess = SINGLE_PROCESS
) -> RunCalibration:
    """Fit a calibration, measure it, and replace `calibration.json`.

    Validation images that the initial weights were trained on are not used. If none are left, or
    the run was trained on them, the result has a notice and no calibration.

    Raises:
        RunError: The run has not been evaluated.
    """
    if run.config.recipe.learn_validation:
        notice = (
            "not calibrated: the run was trained on its validation images. Use `calibrate RUN "
            "--twin TWIN` with a run of the same recipe that was not"
        )
        return _write(run, RunCalibration(notices=(notice,)), process)
    trained, validation = load_trained(run), data.split.validation
    validation = validation[~is_known_image(data.scan, validation, read_known_images(run))]
    if not len(validation):
        notice = (
            "not calibrated: the initial weights were trained on all validation images. Add images "
            "that are new to them"
        )
        return _write(run, RunCalibration(notices=(notice,)), process)
    network = trained.inference_network.to(process.device)
    logits = predict_split(network, data, validation, trained.normalize, process).numpy()
    labels = data.images.labels[validation]
    calibration, notices = fit_calibration(logits, labels)
    on_validation = measure_calibration(calibration, logits, labels)
    on_test = measure_calibration(calibration, read_logits(run), read_labels(run))
    notices += tuple(
        f"worse on the test split than promised: {fault}"
        for fault in calibration_faults(on_test, len(labels))
    )
    calibrated = RunCalibration(
        calibration=_with_test_figures(calibration, on_test),
        validation=on_validation,
        test=on_test,
        notices=notices,
    )
    return _write(run, calibrated, process)


def take_calibration(run: Run, twin: Run) -> RunCalibration:
    """Take the calibration of a twin, for a run that was trained on its validation images.

    A twin has the same data, network and recipe, but was not trained on its validation images.

    Raises:
        CalibrationError: The runs are not twins, or the calibration is worse on the test split
            than promised.
        RunError: The twin has not been calibrated.
    """
    _require_twins(run, twin)
    source = read_calibration(twin)
    if source.calibration is None or source.validation is None:
        raise CalibrationError(f"{twin.path} has no calibration: {'; '.join(source.notices)}")
    test = measure_calibration(source.calibration, read_logits(run), read_labels(run))
    if faults := calibration_faults(test, source.validation.images):
        raise CalibrationError(
            f"the calibration of {twin.path} is worse on the test split of {run.path} than "
            f"promised: {'; '.join(faults)}"
        )
    calibration = _with_test_figures(source.calibration, test, f" of run {twin.run_id}")
    changes = {"calibration": calibration, "test": test, "twin": twin.run_id, "notices": ()}
    return _write(run, source.model_copy(update=changes))


def read_calibration(run: RunDirectory) -> RunCalibration:
    """Return the content of `calibration.json`. Raises RunError if it is missing or damaged."""
    path = run.file(CALIBRATION_FILE, "calibrate")
    try:
        return RunCalibration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise damaged_file_error(path, error) from None


def _with_test_figures(
    calibration: Calibration, test: CalibrationFigures, fitted_on_suffix: str = ""
) -> Calibration:
    return calibration.model_copy(
        update={
            "fitted_on": calibration.fitted_on + fitted_on_suffix,
            "ece_before": test.ece_before,
            "ece_after": test.ece_after,
            "abstained": test.abstained,
            "coverages": {coverage: figures.coverage for coverage, figures in test.sets.items()},
        }
    )


def _write(
    run: Run, calibrated: RunCalibration, process: DistributedProcess = SINGLE_PROCESS
) -> RunCalibration:
    if process.is_main:
        run.write(CALIBRATION_FILE, calibrated.model_dump_json(indent=2).encode() + b"\n")
    return calibrated


def _require_twins(run: Run, twin: Run) -> None:
    if not run.config.recipe.learn_validation:
        raise CalibrationError(
            f"{run.path} was not trained on its validation images: calibrate it without --twin"
        )
    if twin.config.recipe.learn_validation:
        raise CalibrationError(
            f"{twin.path} was trained on its validation images too: name a run that was not"
        )
    if differing := list(_twin_differences(run, twin)):
        raise CalibrationError(
            f"{twin.path} is not a twin of {run.path}: they differ in {', '.join(differing)}"
        )


def _twin_differences(run: Run, twin: Run) -> Iterator[str]:
    if run.config.architecture != twin.config.architecture:
        yield "architecture"
    if run.config.preprocessing != twin.config.preprocessing:
        yield "preprocessing"
    digests = [each.read_json(CHECK_FILE, "resume")["data_digest"] for each in (run, twin)]
    if digests[0] != digests[1]:
        yield "data"
    own, other = run.config.recipe.model_dump(), twin.config.recipe.model_dump()
    for name, value in own.items():
        if name not in _TWIN_DIFFERENCES and value != other[name]:
            yield f"recipe.{name}"
