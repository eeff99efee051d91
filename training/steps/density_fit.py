"""Fits a density to embeddings of training images, and its threshold to images not trained on."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.density import Density
from model_store.session import Embeddings, Logits
from model_store.uncertainty import energy
from training.steps.calibration_fit import ABSTENTION_TARGET, Labels, most_refused

DENSITY_IMAGES: Final = 20_000
"""At most this many training images are used, evenly spaced."""
MIN_IMAGES_PER_DIM: Final = 4
"""With fewer training images per dimension, the covariance overfits."""
HIGHEST_CORRELATION: Final = 0.99
"""Limit of the correlation of distances and energy: at 1, no deviation would be left."""
SHRINKAGE: Final = 1e-3
"""Share of the mean variance that is added to each direction, so that none has variance 0."""


def fit_density(
    embeddings: Embeddings,
    labels: Labels,
    fitted: tuple[Logits, Embeddings],
    *,
    seen: bool = False,
    all_classes: bool = True,
) -> Density | None:
    """Fit a density.

    The threshold refuses as many of the fitted images as allowed, so that the model abstains on at
    most ABSTENTION_LIMIT of all images like them, with ABSTENTION_CONFIDENCE. If the network was
    trained on them, others are refused more often, and the share is ABSTENTION_TARGET instead.

    Args:
        embeddings: Of training images, float32 `[n, dims]`.
        labels: Their classes, int64 `[n]`.
        fitted: Logits and embeddings of validation images, for center, scale and threshold.
        seen: Whether the network was trained on the validation images.
        all_classes: Whether every class must have training images. A class without them has no
            mean, so that the model abstains on its images too.

    Returns:
        The density; None if there are too few images, or none of some class.
    """
    refused = most_refused(len(fitted[0]))
    if seen:
        refused = min(refused, math.floor(ABSTENTION_TARGET * len(fitted[0])))
    images, dims = embeddings.shape
    present, positions = np.unique(labels, return_inverse=True)
    missing = fitted[0].shape[1] - len(present)
    if refused < 0 or images < MIN_IMAGES_PER_DIM * dims or (all_classes and missing):
        return None
    wide = embeddings.astype(np.float64)
    mean = wide.mean(axis=0)
    whitening = _whitening(wide - mean)
    units = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    class_means = np.stack([units[labels == number].mean(axis=0) for number in present])
    unit_whitening = _whitening(units - class_means[positions])
    values = {
        "whitening": whitening,
        "mean": mean @ whitening,
        "unit_whitening": unit_whitening,
        "unit_means": class_means @ unit_whitening,
        "center": np.zeros(3),
        "scale": np.ones(3),
        "threshold": np.zeros(()),
    }
    unscaled = Density(**{name: np.asarray(each, np.float32) for name, each in values.items()})
    logits, fitted_embeddings = fitted
    energies = energy(logits)
    parts = np.column_stack([unscaled.distances(fitted_embeddings), energies])
    values |= _standardization(parts.astype(np.float64))
    scaled = Density(**{name: np.asarray(each, np.float32) for name, each in values.items()})
    scores = np.sort(sum(scaled.score(fitted_embeddings, energies)))
    values["threshold"] = scores[len(scores) - 1 - refused]
    return Density(**{name: np.asarray(each, np.float32) for name, each in values.items()})


def share_refused(density: Density, logits: Logits, embeddings: Embeddings) -> float:
    """Share of these images from which the model abstains."""
    return float((sum(density.score(embeddings, energy(logits))) > density.threshold).mean())


def _standardization(parts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Regress both distances of the fitted images on their energy, the last of these columns."""
    center, deviations = parts.mean(axis=0), np.maximum(parts.std(axis=0), 1e-6)
    standard = (parts - center) / deviations
    correlations = (standard[:, :2] * standard[:, 2:]).mean(axis=0)
    correlations = correlations.clip(-HIGHEST_CORRELATION, HIGHEST_CORRELATION)
    rest = np.sqrt(1 - correlations**2)
    scale = deviations * np.append(rest, 1)
    return {"center": center, "scale": scale, "energy_slope": (correlations / rest).sum()}


def _whitening(centered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `[dims, dims]` that gives these rows the identity as covariance."""
    covariance = centered.T @ centered / len(centered)
    dims = len(covariance)
    covariance += SHRINKAGE * np.trace(covariance) / dims * np.eye(dims)
    return np.linalg.cholesky(np.linalg.inv(covariance))
