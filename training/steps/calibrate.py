"""Calibration: what the validation split says about how far the network's answers can be trusted.

A temperature (Guo et al. 2017) makes its probabilities those with which it is right, an energy threshold (Liu et al. 2020)
tells what is unlike the training images, and split-conformal thresholds give sets of labels that hold the right one with a
chosen probability. All three are fitted on logits of images that were not trained on, and measured on the test split.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binom

from model_store.manifest import Calibration
from model_store.session import Logits, probabilities
from model_store.uncertainty import energy, set_sizes
from model_store.validation import Fraction as Share
from training.errors import CalibrationError
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.data import CHECK_FILE, RunData, is_known_image, read_known_images
from training.run.directory import RunDirectory, damaged
from training.run.inference import predict_split
from training.run.weights import load_trained
from training.steps.evaluate import calibration_error, read_labels, read_logits
from training.steps.export import OUTPUTS

CALIBRATION_FILE: Final = "calibration.json"
COVERAGES: Final = ("0.8", "0.9", "0.95")
ABSTENTION_TARGET: Final = 0.03
ABSTENTION_LIMIT: Final = 0.05
ABSTENTION_CONFIDENCE: Final = 0.95  # how sure it must be that of all images like these no more than ABSTENTION_LIMIT are refused
ECE_ALLOWANCE: Final = 0.01
_STANDARD_DEVIATIONS: Final = 2.33  # standard deviations: one time in a hundred
_TEMPERATURE_BOUNDS: Final = (0.05, 20.0)
_TWIN_DIFFERENCES: Final = frozenset({"learn_validation", "select", "accuracy_floor"})

Labels = NDArray[np.int64]


class CalibrationModel(BaseModel):
    """A part of `calibration.json`: immutable, strict, without room for more."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SetFigures(CalibrationModel):
    """How often the sets of one coverage hold the right label, and how many labels they have on average."""

    coverage: Share
    mean_size: Annotated[float, Field(ge=1)]


class CalibrationFigures(CalibrationModel):
    """What a calibration does on one split: the expected calibration error before and after, refusals, sets by coverage."""

    images: Annotated[int, Field(ge=1)]
    ece_before: Share
    ece_after: Share
    abstained: Share | None = None
    sets: dict[str, SetFigures] = {}


class RunCalibration(CalibrationModel):
    """What `calibrate` leaves: the manifest's block, None where nothing could be fitted, its figures, and what was left out."""

    calibration: Calibration | None = None
    validation: CalibrationFigures | None = None
    """Of the images that it was fitted on."""
    test: CalibrationFigures | None = None
    twin: str | None = None
    """The run whose values these are, where this one has learned its own validation images."""
    notices: tuple[str, ...] = ()


def calibrate(
    run: RunDirectory, data: RunData, process: DistributedProcess = SINGLE_PROCESS
) -> RunCalibration:
    """Fit on the validation split and measure on the test split's logits that `evaluate` left; replaces what was there.

    A run that has trained on its validation images too gets a notice instead, for those are answered far better than any
    other image will be; and so those that an earlier version learned from are not counted. What does not hold on test is said.
    Raises RunError where the run has not been evaluated.
    """
    if run.config().recipe.learn_validation:
        advice = (
            "`calibrate RUN --twin RUN` takes the values of a run of the same recipe that did not"
        )
        return _write(
            run,
            RunCalibration(
                notices=(f"not calibrated: the validation images were trained on; {advice}",)
            ),
            process,
        )
    trained, validation = load_trained(run), data.split.validation
    validation = validation[~is_known_image(data, validation, read_known_images(run))]
    if not len(validation):
        return _write(
            run,
            RunCalibration(
                notices=("not calibrated: an earlier version has learned every validation image",)
            ),
            process,
        )
    logits = predict_split(
        trained.answering.to(process.device), data, validation, trained.normalize, process
    ).numpy()
    labels = data.images.labels[validation]
    calibration, notices = fit_calibration(logits, labels)
    on_validation = measure_calibration(calibration, logits, labels)
    on_test = measure_calibration(calibration, read_logits(run), read_labels(run))
    notices += tuple(
        f"on the test split it does not hold: {fault}" for fault in _faults(on_test, len(labels))
    )
    found = RunCalibration(
        calibration=_with_test_figures(calibration, on_test),
        validation=on_validation,
        test=on_test,
        notices=notices,
    )
    return _write(run, found, process)


def take_calibration(run: RunDirectory, twin: RunDirectory) -> RunCalibration:
    """The twin's values for a run that has trained on its validation images too, held against its own test split.

    Raises CalibrationError where the two are no twins or the values do not hold, RunError where the twin is not calibrated.
    """
    _require_twins(run, twin)
    source = read_calibration(twin)
    if source.calibration is None or source.validation is None:
        raise CalibrationError(
            f"{twin.path} has no calibration to take: {'; '.join(source.notices)}"
        )
    test = measure_calibration(source.calibration, read_logits(run), read_labels(run))
    if faults := _faults(test, source.validation.images):
        raise CalibrationError(
            f"the values of {twin.path} do not hold on the test split of {run.path}: {'; '.join(faults)}"
        )
    calibration = _with_test_figures(source.calibration, test, f" of run {twin.run_id}")
    return _write(
        run,
        source.model_copy(
            update={"calibration": calibration, "test": test, "twin": twin.run_id, "notices": ()}
        ),
    )


def read_calibration(run: RunDirectory) -> RunCalibration:
    """What `calibrate` left. Raises RunError."""
    path = run.file(CALIBRATION_FILE, "calibrate")
    try:
        return RunCalibration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise damaged(path, error) from None


def fit_calibration(logits: Logits, labels: Labels) -> tuple[Calibration, tuple[str, ...]]:
    """The calibration of a network with these logits, float32 `[n, classes]`, on images not trained on; and what is left out."""
    temperature = fit_temperature(logits, labels)
    of_label = probabilities(logits, OUTPUTS, temperature)[np.arange(len(labels)), labels]
    found = {coverage: conformal_threshold(of_label, coverage) for coverage in COVERAGES}
    calibration = Calibration(
        temperature=temperature,
        energy_threshold=fit_energy_threshold(energy(logits)),
        conformal_thresholds={
            coverage: threshold for coverage, threshold in found.items() if threshold is not None
        },
        fitted_on=f"validation split, {len(labels)} images",
    )
    few, notices = f"{len(labels)} validation images are too few", []
    if calibration.energy_threshold is None:
        notices.append(f"the model can not abstain: {few} to tell what is unlike them")
    if missing := [coverage for coverage, threshold in found.items() if threshold is None]:
        notices.append(f"no sets of labels for a coverage of {', '.join(missing)}: {few}")
    return calibration, tuple(notices)


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature with the least negative log-likelihood (Guo et al. 2017).

    One imaginary image counts too, whose label could be any: without a mistake among the images nothing else would keep the
    temperature from 0, and among many images it weighs nothing.
    """
    rows = np.arange(len(labels))

    def loss(logarithm: float) -> float:
        log_probabilities = log_softmax(logits.astype(np.float64) / math.exp(logarithm), axis=1)
        return float(-log_probabilities[rows, labels].sum() - log_probabilities.mean())

    bounds = [math.log(bound) for bound in _TEMPERATURE_BOUNDS]
    return math.exp(
        minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x
    )


def fit_energy_threshold(energies: NDArray[np.float32]) -> float | None:
    """The energy above which an image is refused: ABSTENTION_TARGET of these are.

    Of few images fewer, so that it is ABSTENTION_CONFIDENCE no more than ABSTENTION_LIMIT of all images like these (Wilks 1941); None where they are
    too few for that, under 59.
    """
    images = len(energies)
    refused = min(
        math.floor(ABSTENTION_TARGET * images),
        int(binom.ppf(1 - ABSTENTION_CONFIDENCE, images, ABSTENTION_LIMIT)),
    )
    while refused >= 0 and binom.cdf(refused, images, ABSTENTION_LIMIT) > 1 - ABSTENTION_CONFIDENCE:
        refused -= 1
    return float(np.sort(energies)[images - 1 - refused]) if refused >= 0 else None


def conformal_threshold(of_label: NDArray[np.float32], coverage: str) -> float | None:
    """The least probability of a label in the set, by split conformal prediction with the score 1 - p (Sadinle et al. 2019).

    `of_label` are the right labels' probabilities, float32 `[n]`. The floor((n + 1)(1 - coverage))-th smallest, so that the set
    of a new image holds its label with at least that probability; None where n is too small for it to exist.
    """
    rank = math.floor(
        (len(of_label) + 1) * (1 - Fraction(coverage))
    )  # exact: 20 * (1 - 0.95) in floats is under 1
    return float(np.sort(of_label)[rank - 1]) if rank else None


def measure_calibration(
    calibration: Calibration, logits: Logits, labels: Labels
) -> CalibrationFigures:
    """What the calibration does on these images."""
    calibrated = probabilities(logits, OUTPUTS, calibration.temperature)
    of_label = calibrated[np.arange(len(labels)), labels]
    place = (calibrated > of_label[:, np.newaxis]).sum(
        axis=1
    )  # of the right label: 0 is the most probable
    sizes = {
        coverage: set_sizes(calibrated, threshold)
        for coverage, threshold in calibration.conformal_thresholds.items()
    }
    threshold = calibration.energy_threshold
    return CalibrationFigures(
        images=len(labels),
        ece_before=_ece(probabilities(logits, OUTPUTS), labels),
        ece_after=_ece(calibrated, labels),
        abstained=None if threshold is None else float((energy(logits) > threshold).mean()),
        sets={
            coverage: SetFigures(
                coverage=float((place < size).mean()), mean_size=float(size.mean())
            )
            for coverage, size in sizes.items()
        },
    )


def _ece(of_classes: NDArray[np.float32], labels: Labels) -> float:
    return calibration_error(torch.from_numpy(of_classes), torch.from_numpy(labels))


def _with_test_figures(
    calibration: Calibration, test: CalibrationFigures, whose: str = ""
) -> Calibration:
    """The block with what it does on the test split."""
    return calibration.model_copy(
        update={
            "fitted_on": calibration.fitted_on + whose,
            "ece_before": test.ece_before,
            "ece_after": test.ece_after,
            "abstained": test.abstained,
            "coverages": {coverage: figures.coverage for coverage, figures in test.sets.items()},
        }
    )


def _write(
    run: RunDirectory, found: RunCalibration, process: DistributedProcess = SINGLE_PROCESS
) -> RunCalibration:
    if process.is_main:
        run.write(CALIBRATION_FILE, found.model_dump_json(indent=2).encode() + b"\n")
    return found


def _require_twins(run: RunDirectory, twin: RunDirectory) -> None:
    own, other = run.config(), twin.config()
    if not own.recipe.learn_validation:
        raise CalibrationError(
            f"{run.path} did not train on its validation images: calibrate it on them, without --twin"
        )
    if other.recipe.learn_validation:
        raise CalibrationError(
            f"{twin.path} trained on its validation images as well: name a run that did not"
        )
    differing = [
        name
        for name, mine, others in (
            ("architecture", own.architecture, other.architecture),
            ("preprocessing", own.preprocessing, other.preprocessing),
            (
                "data",
                run.read_json(CHECK_FILE, "resume")["data_digest"],
                twin.read_json(CHECK_FILE, "resume")["data_digest"],
            ),
            *_recipe_values(own.recipe.model_dump(), other.recipe.model_dump()),
        )
        if mine != others
    ]
    if differing:
        raise CalibrationError(
            f"{twin.path} is no twin of {run.path}; they differ in {', '.join(differing)}"
        )


def _recipe_values(own: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [
        (f"recipe.{name}", own[name], other[name]) for name in own if name not in _TWIN_DIFFERENCES
    ]


def largest_share_by_chance(share: float, images: int, fitted_on: int) -> float:
    """The largest share of so many images that chance explains where `share` of all is true, fitted on so many others."""
    return share + _STANDARD_DEVIATIONS * math.sqrt(
        share * (1 - share) * (1 / images + 1 / fitted_on)
    )


def _faults(test: CalibrationFigures, fitted_on: int) -> list[str]:
    """Where the figures on test are further from what was promised than chance explains."""
    faults = [
        f"sets for {coverage} hold the label of {figures.coverage:.2%}"
        for coverage, figures in test.sets.items()
        if 1 - figures.coverage
        > largest_share_by_chance(1 - float(coverage), test.images, fitted_on)
    ]
    if test.abstained is not None and test.abstained > largest_share_by_chance(
        ABSTENTION_LIMIT, test.images, fitted_on
    ):
        faults.append(f"{test.abstained:.2%} would be refused")
    if test.ece_after > test.ece_before + ECE_ALLOWANCE:
        faults.append(
            f"the expected calibration error would go from {test.ece_before:.2%} to {test.ece_after:.2%}"
        )
    return faults
