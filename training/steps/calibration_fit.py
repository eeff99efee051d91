"""Fits a calibration to logits, and measures its effect.

A temperature makes the probabilities match the accuracy, an energy threshold rejects images that
are unlike the training images, and conformal thresholds give sets of labels with a chosen coverage.
"""

import math
from fractions import Fraction
from typing import Annotated, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binom

from model_store.manifest import Calibration
from model_store.session import Logits, probabilities
from model_store.uncertainty import energy, set_sizes
from model_store.validation import Fraction as Share
from training.steps.evaluate import expected_calibration_error
from training.steps.export import OUTPUTS

COVERAGES: Final = ("0.8", "0.9", "0.95")
ABSTENTION_TARGET: Final = 0.03
"""Share of the fitted images on which the model abstains."""
ABSTENTION_LIMIT: Final = 0.05
"""Largest share of all images like these on which it may abstain, with ABSTENTION_CONFIDENCE."""
ABSTENTION_CONFIDENCE: Final = 0.95
ECE_ALLOWANCE: Final = 0.01
_ONE_IN_A_HUNDRED: Final = 2.33  # standard deviations, one-sided
_TEMPERATURE_BOUNDS: Final = (0.05, 20.0)

Labels = NDArray[np.int64]


class CalibrationModel(BaseModel):
    """Base of the objects in `calibration.json`: immutable and strict."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SetFigures(CalibrationModel):
    """Prediction sets of one coverage: measured coverage and mean number of labels."""

    coverage: Share
    mean_size: Annotated[float, Field(ge=1)]


class CalibrationFigures(CalibrationModel):
    """Effect of a calibration on one split.

    Attributes:
        images: Number of images.
        ece_before: Expected calibration error with temperature 1.
        ece_after: Expected calibration error with the fitted temperature.
        abstained: Share of images above the energy threshold; None if there is no threshold.
        sets: Prediction sets by target coverage.
    """

    images: Annotated[int, Field(ge=1)]
    ece_before: Share
    ece_after: Share
    abstained: Share | None = None
    sets: dict[str, SetFigures] = {}


def fit_calibration(logits: Logits, labels: Labels) -> tuple[Calibration, tuple[str, ...]]:
    """Fit all three values to images that were not trained on.

    Args:
        logits: float32 `[n, classes]`.
        labels: int64 `[n]`.

    Returns:
        The calibration, and a notice for each value that needs more images.
    """
    temperature = fit_temperature(logits, labels)
    of_label = probabilities(logits, OUTPUTS, temperature)[np.arange(len(labels)), labels]
    thresholds = {coverage: conformal_threshold(of_label, coverage) for coverage in COVERAGES}
    calibration = Calibration(
        temperature=temperature,
        energy_threshold=fit_energy_threshold(energy(logits)),
        conformal_thresholds={
            coverage: threshold
            for coverage, threshold in thresholds.items()
            if threshold is not None
        },
        fitted_on=f"validation split, {len(labels)} images",
    )
    too_few, notices = f"{len(labels)} validation images are too few", []
    if calibration.energy_threshold is None:
        notices.append(f"the model cannot abstain: {too_few} for an energy threshold")
    if missing := [coverage for coverage, threshold in thresholds.items() if threshold is None]:
        notices.append(f"no prediction sets for coverage {', '.join(missing)}: {too_few}")
    return calibration, tuple(notices)


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the temperature with the smallest negative log-likelihood.

    One imaginary image with a uniform label is added. Without it, the temperature would go to 0 if
    the model made no mistake. Among many images its effect is negligible.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
    """
    rows = np.arange(len(labels))

    def loss(logarithm: float) -> float:
        log_probabilities = log_softmax(logits.astype(np.float64) / math.exp(logarithm), axis=1)
        return float(-log_probabilities[rows, labels].sum() - log_probabilities.mean())

    bounds = [math.log(bound) for bound in _TEMPERATURE_BOUNDS]
    fitted = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return math.exp(fitted.x)


def fit_energy_threshold(energies: NDArray[np.float32]) -> float | None:
    """Return the energy above which the model abstains.

    At most ABSTENTION_TARGET of these images are above it. With few images the share is smaller, so
    that the model abstains on at most ABSTENTION_LIMIT of all images like these, with
    ABSTENTION_CONFIDENCE. None if there are too few images for that bound (fewer than 59).

    Source: Liu et al. 2020, "Energy-based Out-of-distribution Detection"; the bound is a
    tolerance limit as in Wilks 1941.
    """
    images = len(energies)
    above = min(math.floor(ABSTENTION_TARGET * images), most_refused(images))
    return float(np.sort(energies)[images - 1 - above]) if above >= 0 else None


def most_refused(images: int) -> int:
    """Return how many of these images a threshold may refuse; -1 if there are too few images.

    With ABSTENTION_CONFIDENCE, it then refuses at most ABSTENTION_LIMIT of all images like them
    (a tolerance limit as in Wilks 1941).
    """
    risk = 1 - ABSTENTION_CONFIDENCE
    above = int(binom.ppf(risk, images, ABSTENTION_LIMIT))
    while above >= 0 and binom.cdf(above, images, ABSTENTION_LIMIT) > risk:
        above -= 1
    return above


def conformal_threshold(of_label: NDArray[np.float32], coverage: str) -> float | None:
    """Return the smallest probability with which a label is in the prediction set.

    It is the floor((n + 1)(1 - coverage))-th smallest value, so the set of a new image contains
    the right label with at least this probability.

    Args:
        of_label: Probability of the right label of each image, float32 `[n]`.
        coverage: The target, as a decimal text.

    Returns:
        The threshold, or None if n is too small.

    Source: Sadinle et al. 2019, "Least Ambiguous Set-Valued Classifiers", score 1 - p.
    """
    # as fractions: 20 * (1 - 0.95) in floats is less than 1
    rank = math.floor((len(of_label) + 1) * (1 - Fraction(coverage)))
    return float(np.sort(of_label)[rank - 1]) if rank else None


def measure_calibration(
    calibration: Calibration, logits: Logits, labels: Labels
) -> CalibrationFigures:
    """Measure a calibration on these images (logits float32 `[n, classes]`, labels `[n]`)."""
    calibrated = probabilities(logits, OUTPUTS, calibration.temperature)
    of_label = calibrated[np.arange(len(labels)), labels]
    rank = (calibrated > of_label[:, np.newaxis]).sum(axis=1)  # of the right label; 0 is best
    sizes = {
        coverage: set_sizes(calibrated, np.array([threshold], np.float32))[:, 0]
        for coverage, threshold in calibration.conformal_thresholds.items()
    }
    threshold = calibration.energy_threshold
    return CalibrationFigures(
        images=len(labels),
        ece_before=_calibration_error(probabilities(logits, OUTPUTS), labels),
        ece_after=_calibration_error(calibrated, labels),
        abstained=None if threshold is None else float((energy(logits) > threshold).mean()),
        sets={
            coverage: SetFigures(coverage=float((rank < size).mean()), mean_size=float(size.mean()))
            for coverage, size in sizes.items()
        },
    )


def _calibration_error(of_classes: NDArray[np.float32], labels: Labels) -> float:
    return expected_calibration_error(torch.from_numpy(of_classes), torch.from_numpy(labels))


def largest_share_by_chance(share: float, images: int, fitted_on: int) -> float:
    """Return the share that is exceeded by chance in one of 100 cases.

    Args:
        share: The share of all images.
        images: Number of images that are measured.
        fitted_on: Number of images that the threshold was fitted on.
    """
    variance = share * (1 - share) * (1 / images + 1 / fitted_on)
    return share + _ONE_IN_A_HUNDRED * math.sqrt(variance)


def calibration_faults(test: CalibrationFigures, fitted_on: int) -> list[str]:
    """Return one sentence for each value that is worse on the test split than chance explains."""
    faults = [
        f"the sets for coverage {coverage} contain the label of {figures.coverage:.2%} of images"
        for coverage, figures in test.sets.items()
        if 1 - figures.coverage
        > largest_share_by_chance(1 - float(coverage), test.images, fitted_on)
    ]
    limit = largest_share_by_chance(ABSTENTION_LIMIT, test.images, fitted_on)
    if test.abstained is not None and test.abstained > limit:
        faults.append(f"the model would abstain on {test.abstained:.2%} of images")
    if test.ece_after > test.ece_before + ECE_ALLOWANCE:
        faults.append(
            f"the expected calibration error would rise from {test.ece_before:.2%} to "
            f"{test.ece_after:.2%}"
        )
    return faults
