"""The checks of an import against labelled images (`--verify`)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from model_store.manifest import Check, Preprocessing
from model_store.preprocessing import Pixels
from model_store.proportions import mcnemar
from model_store.provenance import Metrics
from model_store.session import Logits, Session, probabilities
from training.data.decode_workers import decode_threads
from training.data.folders import load_folder
from training.data.image_set import ImageSet, Indices, with_classes
from training.data.sampling import evenly_spaced
from training.errors import DataError, ForeignModelError
from training.gates.checks import at_least
from training.gates.vs_previous_version import SIGNIFICANCE
from training.importing.candidate import ImportCandidate
from training.run.inference import run_in_batches
from training.steps.export import EXPORT_MAX_BATCH_SIZE

MIN_VERIFICATION_IMAGES: Final = 10
MAX_VERIFICATION_IMAGES: Final = 1000
_ALTERNATIVE_IMAGES: Final = 200
MIN_GEOMETRY_GAIN: Final = 0.02
"""Smaller gains of another geometry are ignored. Networks can be a little more accurate at other
sizes than in training (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
"""
_MIN_PROBABILITY: Final = 1e-9


@dataclass(frozen=True)
class VerificationSet:
    """Labelled images (`images[chosen]`) and the accuracy to reach on them."""

    images: ImageSet
    chosen: Indices
    floor: float

    @property
    def labels(self) -> Indices:
        """int64 `[n]`, positions in the candidate's class names."""
        return self.images.labels[self.chosen]


def open_verification_set(
    folder: Path, class_names: tuple[str, ...], floor: float | None
) -> VerificationSet:
    """Open a folder of labelled images: one folder per class, named like its label.

    Args:
        folder: May hold some of the classes only.
        class_names: The labels of the network.
        floor: The top-1 to reach, from 0 to 1; None sets it halfway between chance and 1.

    Raises:
        ForeignModelError: If the folder cannot be used, or random guessing reaches the floor.
    """
    try:
        images = with_classes(load_folder(folder), class_names)
    except DataError as error:
        raise ForeignModelError(
            f"--verify {folder}: {error}; name each folder like its label"
        ) from None
    if not len(images):
        raise ForeignModelError(f"--verify {folder} has no images; put some in a folder per label")
    chance = 1 / len(class_names)
    if floor is not None and floor <= chance:
        raise ForeignModelError(
            f"--min-accuracy must be above {chance:.3g}, which guessing among "
            f"{len(class_names)} classes reaches, got {floor:g}"
        )
    chosen = evenly_spaced(np.arange(len(images)), MAX_VERIFICATION_IMAGES)
    return VerificationSet(images, chosen, (1 + chance) / 2 if floor is None else floor)


def decode_images(
    verification_set: VerificationSet, indices: Indices, preprocessing: Preprocessing
) -> Pixels:
    """Decode labelled images. Raises ForeignModelError if one cannot be read."""
    try:
        return verification_set.images.pixels(indices, preprocessing, decode_threads(None))
    except DataError as error:
        raise ForeignModelError(f"--verify: {error}") from None


def score_labelled(
    session: Session, pixels: Pixels, max_batch_size: int, progress: Callable[[int, int], None]
) -> Logits:
    scores = []
    for start in range(0, len(pixels), EXPORT_MAX_BATCH_SIZE):
        chunk = pixels[start : start + EXPORT_MAX_BATCH_SIZE]
        scores.append(run_in_batches(session, chunk, max_batch_size))
        progress(start + len(chunk), len(pixels))
    return np.concatenate(scores)


def check_accuracy(
    candidate: ImportCandidate,
    verification_set: VerificationSet,
    pixels: Pixels,
    metrics: Metrics,
) -> Iterator[Check]:
    """Check the accuracy on labelled images, and that no alternative input spec is better.

    The second check detects a wrong mean, BGR for RGB, or a wrong resize, even if the accuracy
    reaches its floor.
    """
    yield at_least(
        "verify_images",
        len(pixels),
        MIN_VERIFICATION_IMAGES,
        "labelled images in --verify; fewer prove little",
    )
    yield at_least(
        "verify_classes",
        len(np.unique(verification_set.labels)),
        2,
        "classes in --verify; one alone does not show the order of the labels",
    )
    yield at_least(
        "accuracy_floor",
        metrics.top1,
        verification_set.floor,
        f"top-1 on {len(pixels)} images of --verify",
    )
    if candidate.alternatives or candidate.geometries:
        yield _check_alternatives(candidate, verification_set, pixels)


def _check_alternatives(
    candidate: ImportCandidate, verification_set: VerificationSet, pixels: Pixels
) -> Check:
    sample = evenly_spaced(np.arange(len(pixels)), _ALTERNATIVE_IMAGES)
    labels, pixels = verification_set.labels[sample], pixels[sample]
    own = _score_by_labels(candidate, candidate.reference(pixels), labels)
    others = {
        name: _score_by_labels(candidate, score(pixels), labels)
        for name, score in candidate.alternatives.items()
    }
    p_values = {name: _p_value(own, other) for name, other in others.items()}
    needed = math.ceil(MIN_GEOMETRY_GAIN * len(sample))
    for name, other_pixels in _resized_otherwise(candidate, verification_set, sample, pixels):
        others[name] = _score_by_labels(candidate, candidate.reference(other_pixels), labels)
        p_values[name] = _geometry_p_value(own, others[name], needed)
    # Bonferroni: each alternative is one more chance to be better by accident.
    p_values = {name: min(1.0, p_value * len(others)) for name, p_value in p_values.items()}
    better = [name for name, p_value in p_values.items() if p_value < SIGNIFICANCE]
    best = max(
        better or [min(p_values, key=lambda name: p_values[name])],
        key=lambda name: others[name].correct,
    )
    return at_least(
        "no_better_reading",
        p_values[best],
        SIGNIFICANCE,
        f"p-value if the input spec is right: {own.correct} of {len(sample)} correct, "
        f"{others[best].correct} with {best}",
    )


def _resized_otherwise(
    candidate: ImportCandidate, verification_set: VerificationSet, sample: Indices, pixels: Pixels
) -> Iterator[tuple[str, Pixels]]:
    """Yield the sample in each other geometry that changes its pixels."""
    known = [pixels]
    for name, preprocessing in candidate.geometries.items():
        other = decode_images(verification_set, verification_set.chosen[sample], preprocessing)
        if not any(np.array_equal(other, each) for each in known):
            known.append(other)
            yield name, other


@dataclass(frozen=True)
class _LabelScores:
    hits: NDArray[np.bool_]
    """Whether each image is classified correctly, `[n]`."""
    log_probabilities: NDArray[np.float64]
    """Log-probability of each image's label, `[n]`."""

    @property
    def correct(self) -> int:
        return int(self.hits.sum())


def _score_by_labels(candidate: ImportCandidate, scores: Logits, labels: Indices) -> _LabelScores:
    of_labels = probabilities(scores, candidate.outputs)[np.arange(len(labels)), labels]
    return _LabelScores(
        scores.argmax(1) == labels,
        np.log(np.maximum(of_labels.astype(np.float64), _MIN_PROBABILITY)),
    )


def _p_value(own: _LabelScores, other: _LabelScores) -> float:
    """One-sided p-value of the hypothesis that `other` is no better than `own`.

    It is 1 unless `other` classifies more images correctly. The test is Wilcoxon's signed-rank
    test on the pairs of log-probabilities. It needs 200 images where counting mistakes needs 1,000.
    """
    gains = other.log_probabilities - own.log_probabilities
    if other.correct <= own.correct or not gains.any():
        return 1.0
    return float(wilcoxon(gains, alternative="greater").pvalue)


def _geometry_p_value(own: _LabelScores, other: _LabelScores, needed: int) -> float:
    """Like `_p_value`, for another geometry. It is 1 unless `needed` more images are correct.

    With another geometry, some images can become correct while all others become a little less
    certain. Only McNemar's test notices that, so the smaller value of both tests counts, doubled.
    """
    if other.correct - own.correct < needed:
        return 1.0
    gained, lost = (int((a.hits & ~b.hits).sum()) for a, b in ((other, own), (own, other)))
    return min(1.0, 2 * min(_p_value(own, other), mcnemar(lost, gained)))
