"""From the scores of a batch to probabilities, abstention and prediction sets of each image."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.density import DISTANCES, Density, Floats
from model_store.manifest import Calibration, Outputs
from model_store.session import Embeddings, FeatureMaps, Logits, probabilities
from model_store.uncertainty import energy, set_sizes
from service.errors import InvalidModelOutputError

SCORE_DECIMALS = 6
MAX_RANKED = 1000
"""The most classes that are ranked for an image, unless a prediction set contains more."""
logger = logging.getLogger(__name__)


@dataclass(slots=True)  # not frozen: that would double the time to create one
class DensityReason:
    """Why a density abstains from an image. `str` gives the text, which not all responses have."""

    of_embedding: float
    of_energy: float
    threshold: float

    def __str__(self) -> str:
        cause = (
            "its features are unlike those of the training images (density)"
            if self.of_embedding >= self.of_energy
            else "no class has a high score (energy)"
        )
        return (
            f"unlike what the model was trained on: {cause}; density {self.of_embedding:.2f} + "
            f"energy {self.of_energy:.2f} is over the threshold of {self.threshold:.2f}"
        )


@dataclass(slots=True)  # as above
class Classification:
    """One image's classes, most probable first, with their calibrated probabilities.

    Attributes:
        indices: The `MAX_RANKED` most probable classes, and all of the largest prediction set;
            ties by index.
        scores: The probability of each class of `indices`, rounded to `SCORE_DECIMALS`.
        abstention_reason: Why the model abstains; empty if it does not, None without a threshold.
        set_sizes: The size of each prediction set, in the order of the manifest's thresholds.
        raw_scores: float32 `[classes]` in the order of `class_names`, as the model returned them.
        probabilities: float32 `[classes]`, calibrated, in the order of `class_names`.
        embedding: Pooled features, float32 `[dims]`, if the batch was run with them.
        features: The last feature map, float32 `[channels, height, width]`, likewise.
        distance: Of the embedding from those of the training images, in standard deviations of the
            validation images; 0 is their mean. None without a density.
    """

    indices: NDArray[np.intp]
    scores: NDArray[np.float64]
    abstention_reason: DensityReason | str | None = None
    set_sizes: tuple[int, ...] = ()
    raw_scores: NDArray[np.float32] | None = None
    probabilities: NDArray[np.float32] | None = None
    embedding: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None
    distance: float | None = None


def classify(
    scores: Logits,
    outputs: Outputs,
    calibration: Calibration,
    embeddings: Embeddings | None = None,
    density: Density | None = None,
    features: FeatureMaps | None = None,
) -> list[Classification | InvalidModelOutputError]:
    """Classify a batch.

    The entry of an image whose scores are NaN or infinite is an error. Other images of the batch
    may belong to other clients, so they are not affected.

    Args:
        scores: float32 `[batch, classes]`, as the model returned them.
        outputs: Whether the scores are logits or probabilities.
        calibration: Temperature and thresholds from the manifest.
        embeddings: float32 `[batch, dims]`, if the model was run for them.
        density: Decides about abstention instead of the energy threshold; needs `embeddings`.
        features: float32 `[batch, channels, height, width]`, if the model was run for them.
    """
    if not (np.isfinite(scores).all() and (embeddings is None or np.isfinite(embeddings).all())):
        return _classify_finite_rows(scores, outputs, calibration, embeddings, density, features)
    class_probabilities = probabilities(scores, outputs, calibration.temperature)
    images, threshold = len(class_probabilities), calibration.energy_threshold
    reasons: Sequence[DensityReason | str | None] = [None] * images
    distances: Sequence[float | None] = [None] * images
    if density is not None and embeddings is not None:
        of_embedding, of_energy = density.score(embeddings, energy(scores))
        reasons = _density_reasons(of_embedding, of_energy, density)
        distances = (of_embedding / DISTANCES).tolist()
    elif threshold is not None:
        reasons = [
            _energy_reason(value, threshold) if value > threshold else ""
            for value in energy(scores).tolist()
        ]
    thresholds = np.array(list(calibration.conformal_thresholds.values()), np.float32)
    sizes = list(map(tuple, set_sizes(class_probabilities, thresholds).tolist()))
    columns = (
        *_rank(class_probabilities, sizes),
        reasons,
        sizes,
        scores,
        class_probabilities,
        [None] * images if embeddings is None else embeddings,
        [None] * images if features is None else features,
        distances,
    )
    return list(map(Classification, *columns))


def _rank(
    class_probabilities: NDArray[np.float32], sizes: Sequence[tuple[int, ...]]
) -> tuple[Iterable[NDArray[np.intp]], Iterable[NDArray[np.float64]]]:
    """The most probable classes of each image, as many as `Classification` has, and their scores.

    Args:
        class_probabilities: float32 `[batch, classes]`.
        sizes: For each image, the sizes of its prediction sets.
    """
    images, classes = class_probabilities.shape
    if classes <= MAX_RANKED:
        order = (-class_probabilities).argsort(axis=1, kind="stable")
        ranked = class_probabilities[np.arange(images)[:, np.newaxis], order].astype(float)
        return order, ranked.round(SCORE_DECIMALS)
    counts = [max((MAX_RANKED, *each)) for each in sizes]
    best = list(map(_rank_best, class_probabilities, counts))
    return [order for order, _ in best], [ranked for _, ranked in best]


def _rank_best(
    row: NDArray[np.float32], count: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Sorts only the `count` most probable classes, because sorting 21,841 takes 2 ms."""
    candidates = np.arange(len(row))
    if count < len(row):
        least = np.partition(row, -count)[-count]
        candidates = np.flatnonzero(row >= least)  # more than `count` if some are equal
    order = candidates[np.argsort(-row[candidates], kind="stable")][:count]
    return order, row[order].astype(float).round(SCORE_DECIMALS)


def _classify_finite_rows(
    scores: Logits,
    outputs: Outputs,
    calibration: Calibration,
    embeddings: Embeddings | None,
    density: Density | None,
    features: FeatureMaps | None,
) -> list[Classification | InvalidModelOutputError]:
    finite = np.asarray(np.isfinite(scores).all(axis=1))
    if embeddings is not None:
        finite &= np.isfinite(embeddings).all(axis=1)
        embeddings = embeddings[finite]
    if features is not None:
        features = features[finite]
    logger.error("model output not finite images=%d batch=%d", (~finite).sum(), len(scores))
    rows = iter(
        classify(scores[finite], outputs, calibration, embeddings, density, features)
        if finite.any()
        else ()
    )
    return [
        next(rows) if is_finite else InvalidModelOutputError("the model returned NaN or infinity")
        for is_finite in finite.tolist()
    ]


def _energy_reason(energy_score: float, threshold: float) -> str:
    return (
        f"unlike what the model was trained on: its energy is {energy_score:.2f}, "
        f"over the threshold of {threshold:.2f}"
    )


def _density_reasons(
    of_embedding: Floats, of_energy: Floats, density: Density
) -> list[DensityReason | str]:
    """Why the model abstains from each image; empty if it does not."""
    total, threshold = of_embedding + of_energy, float(density.threshold)
    reasons: list[DensityReason | str] = [""] * len(total)
    for image in (total > threshold).nonzero()[0].tolist():
        reasons[image] = DensityReason(
            of_embedding[image].item(), of_energy[image].item(), threshold
        )
    return reasons
