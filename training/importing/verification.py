"""The checks of an import: against the reference on probes, and against labelled images."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from model_store.image_header import sniff
from model_store.manifest import Check, Golden, Preprocessing
from model_store.preprocessing import Pixels, prepare
from model_store.provenance import Metrics
from model_store.session import Logits, Session, probabilities
from training.data.folders import load_folder
from training.data.image_set import ImageSet, Indices, with_classes
from training.data.sampling import evenly_spaced
from training.errors import DataError, ForeignModelError
from training.gates.checks import at_least, at_most, max_abs
from training.gates.parity import ODD_BATCH
from training.gates.preprocessing import PREPROCESSING_FAULTS, check_golden
from training.gates.vs_previous_version import SIGNIFICANCE
from training.importing.candidate import ImportCandidate, open_session
from training.importing.probes import (
    SPREAD_IN_TOLERANCES,
    make_probes,
    require_finite,
    score_spread,
    score_tolerance,
)
from training.run.inference import run_in_batches
from training.steps.evaluate import wilson_interval
from training.steps.export import EXPORT_MAX_BATCH_SIZE
from training.steps.golden import Probe, make_golden_block, synthetic_probes, to_npy

MIN_VERIFICATION_IMAGES: Final = 10
MAX_VERIFICATION_IMAGES: Final = 1000
_ALTERNATIVE_IMAGES: Final = 200
_PARITY_IMAGES: Final = 32
_MIN_PROBABILITY: Final = 1e-9
IMPORT_CHECKS: Final = (
    *(f"parity_batch_{size}" for size in (1, ODD_BATCH, EXPORT_MAX_BATCH_SIZE)),
    "parity_top1",
    "batch_invariance",
    "probe_spread",
    "classifier_identity",
    "golden_numerics",
    "golden_decode",
    *(f"golden_notices_{fault}" for fault in PREPROCESSING_FAULTS),
    "verify_images",
    "verify_classes",
    "accuracy_floor",
    "no_better_reading",
)
"""The name of every check of an import."""


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


@dataclass(frozen=True)
class VerificationResult:
    """The outcome of every check, and what a version keeps of it.

    `tolerance` is how far scores may be from the reference's.
    """

    checks: tuple[Check, ...]
    golden: tuple[Golden, ...]
    files: Mapping[str, bytes]
    tolerance: float
    metrics: Metrics | None


def open_verification_set(
    folder: Path, class_names: tuple[str, ...], floor: float | None
) -> VerificationSet:
    """Open a folder of labelled images: one folder per class, named like its label.

    Args:
        folder: May hold some of the classes only.
        class_names: The labels of the network.
        floor: The top-1 to reach; None is halfway from chance to 1.

    Raises:
        ForeignModelError: If the folder cannot be used, or chance reaches the floor.
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


def verify(
    candidate: ImportCandidate,
    verification_set: VerificationSet | None,
    golden_samples: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> VerificationResult:
    """Run every check on the model to seal.

    At most `golden_samples` labelled images become golden images. Raises ForeignModelError if
    an image cannot be read, or the reference returns NaN or infinity.
    """
    session = open_session(candidate.model, candidate.input, candidate.outputs)
    pixels = make_probes(candidate.input)
    labelled: Pixels | None = None
    if verification_set is not None:
        labelled = _decode(verification_set, candidate.preprocessing)
        pixels = np.concatenate([pixels, evenly_spaced(labelled, _PARITY_IMAGES)])
    expected = candidate.reference(pixels)
    require_finite(expected)
    tolerance = score_tolerance(expected)
    checks = [*check_parity(candidate, session, pixels, expected, tolerance)]
    probes = [*_sample_probes(verification_set, golden_samples), *synthetic_probes()]
    golden, files, golden_checks = _golden_proof(candidate, session, probes, tolerance)
    checks += golden_checks
    metrics = None
    if verification_set is not None and labelled is not None:
        scores = _score_all(session, labelled, candidate.max_batch_size, progress)
        metrics = measure(scores, verification_set.labels)
        checks += check_accuracy(candidate, verification_set, labelled, metrics)
    return VerificationResult(tuple(checks), golden, files, tolerance, metrics)


def _decode(verification_set: VerificationSet, preprocessing: Preprocessing) -> Pixels:
    try:
        return verification_set.images.pixels(verification_set.chosen, preprocessing, workers=2)
    except DataError as error:
        raise ForeignModelError(f"--verify: {error}") from None


def check_parity(
    candidate: ImportCandidate,
    session: Session,
    pixels: Pixels,
    expected: Logits,
    tolerance: float,
) -> Iterator[Check]:
    """Compare the session's scores with the reference's (`expected`) in several batch sizes."""
    sizes = [
        size for size in (1, ODD_BATCH, EXPORT_MAX_BATCH_SIZE) if size <= candidate.max_batch_size
    ]
    by_size = {size: run_in_batches(session, pixels, size) for size in sizes}
    for size, scores in by_size.items():
        yield at_most(
            f"parity_batch_{size}",
            max_abs(scores - expected),
            tolerance,
            "largest |score - the reference's| over the probes",
        )
    yield at_least(
        "probe_spread",
        score_spread(expected),
        SPREAD_IN_TOLERANCES * tolerance,
        "largest change of a class's score over the probes; below it, agreement proves nothing",
    )
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
    agreement = min(
        float((scores.argmax(1) == expected.argmax(1))[clear].mean()) if clear.any() else 0.0
        for scores in by_size.values()
    )
    yield at_least(
        "parity_top1",
        agreement,
        1.0,
        "share of the probes with a clear top-1 whose top-1 is the reference's",
    )
    if len(sizes) > 1:
        reversed_order = run_in_batches(session, pixels[::-1], EXPORT_MAX_BATCH_SIZE)[::-1]
        drift = max(max_abs(by_size[1] - other) for other in (*by_size.values(), reversed_order))
        yield at_most(
            "batch_invariance",
            drift,
            tolerance,
            "largest change of a score when an image shares its batch with others",
        )
    if candidate.identity_error is not None:
        yield at_most(
            "classifier_identity",
            candidate.identity_error,
            tolerance,
            "largest |mean(features) x weight + bias - logits|, needed for class-activation maps",
        )


def _golden_proof(
    candidate: ImportCandidate, session: Session, probes: list[Probe], tolerance: float
) -> tuple[tuple[Golden, ...], dict[str, bytes], list[Check]]:
    """The golden images with the reference's scores, their files and their checks."""
    golden: list[Golden] = []
    files: dict[str, bytes] = {}
    images = []
    for probe in probes:
        pixels = prepare(probe.encoded, candidate.preprocessing)
        block = make_golden_block(probe, candidate.reference(pixels[np.newaxis])[0])
        files |= {block.image: probe.encoded, block.pixels: to_npy(pixels)}
        golden.append(block)
        images.append((probe.encoded, pixels, block))
    checks = list(check_golden(images, candidate.preprocessing, session, tolerance))
    return tuple(golden), files, checks


def _score_all(
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

    The latter notices a wrong mean or BGR for RGB even if the accuracy reaches its floor.
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
    if candidate.alternatives:
        yield _check_alternatives(candidate, verification_set, pixels)


def _check_alternatives(
    candidate: ImportCandidate, verification_set: VerificationSet, pixels: Pixels
) -> Check:
    sample = evenly_spaced(np.arange(len(pixels)), _ALTERNATIVE_IMAGES)
    labels = verification_set.labels[sample]
    own = _score_by_labels(candidate, candidate.reference(pixels[sample]), labels)
    others = {
        name: _score_by_labels(candidate, score(pixels[sample]), labels)
        for name, score in candidate.alternatives.items()
    }
    # Bonferroni: each alternative is one more chance to be better by accident.
    p_values = {
        name: min(1.0, _p_value(own, other) * len(others)) for name, other in others.items()
    }
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


@dataclass(frozen=True)
class _LabelScores:
    correct: int
    log_probabilities: NDArray[np.float64]
    """Of each image's own label, `[n]`."""


def _score_by_labels(candidate: ImportCandidate, scores: Logits, labels: Indices) -> _LabelScores:
    of_labels = probabilities(scores, candidate.outputs)[np.arange(len(labels)), labels]
    return _LabelScores(
        int((scores.argmax(1) == labels).sum()),
        np.log(np.maximum(of_labels.astype(np.float64), _MIN_PROBABILITY)),
    )


def _p_value(own: _LabelScores, other: _LabelScores) -> float:
    """How likely the other's gain in log-probability is if it is no better.

    1 unless the other classifies more images correctly. Wilcoxon's signed-rank test on the pairs
    of log-probabilities needs 200 images where counting mistakes needs 1,000.
    """
    gains = other.log_probabilities - own.log_probabilities
    if other.correct <= own.correct or not gains.any():
        return 1.0
    return float(wilcoxon(gains, alternative="greater").pvalue)


def measure(scores: Logits, labels: Indices) -> Metrics:
    """Top-1 with its interval, and top-5, of scores `[n, classes]`."""
    top5 = torch.from_numpy(scores).argsort(dim=1, descending=True).numpy()[:, :5]
    hits = top5 == labels[:, None]
    correct = int(hits[:, 0].sum())
    return Metrics(
        top1=correct / len(labels),
        top5=int(hits.sum()) / len(labels),
        test_images=len(labels),
        top1_interval=wilson_interval(correct, len(labels)),
    )


def _sample_probes(verification_set: VerificationSet | None, count: int) -> Iterator[Probe]:
    """The first labelled image of each of `count` classes, evenly spaced over the classes."""
    if verification_set is None:
        return
    images = verification_set.images
    _, firsts = np.unique(verification_set.labels, return_index=True)
    positions = evenly_spaced(firsts, count)
    for number, index in enumerate(verification_set.chosen[positions], start=1):
        encoded = images.encoded[index]
        suffix = (sniff(encoded) or "").lower().replace("jpeg", "jpg")
        purpose = f"an image of --verify, class {images.label(index)}"
        yield Probe(f"sample-{number}.{suffix}", encoded, purpose)
