"""Is the import right: held against the original on probes, and against labelled images where a person has some."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from model_store.manifest import Check, Golden, Preprocessing
from model_store.preprocessing import Pixels, prepare, sniff
from model_store.provenance import Metrics
from model_store.session import Logits, Session, probabilities
from training.data.folders import load_folder
from training.data.image_set import ImageSet, Indices, with_classes
from training.data.sampling import evenly_spaced
from training.errors import DataError, ForeignModelError
from training.gates.checks import at_least, at_most, max_abs
from training.gates.gate import EXPORT_MAX_BATCH_SIZE, ODD_BATCH
from training.gates.preprocessing import PREPROCESSING_FAULTS, check_golden
from training.gates.vs_previous_version import SIGNIFICANCE
from training.importing.candidate import Candidate, open_session
from training.importing.probes import (
    SPREAD_IN_TOLERANCES,
    make_probes,
    require_finite,
    spread_of,
    tolerance_of,
)
from training.run.inference import run_in_batches
from training.steps.evaluate import wilson_interval
from training.steps.golden import Probe, make_golden_block, synthetic_probes, to_npy

FEWEST_IMAGES: Final = 10
MOST_IMAGES: Final = 1000  # of a larger folder, evenly spread
_COMPARED: Final = 200  # images on which other readings of the pixels are tried
_PARITY_IMAGES: Final = 32
_LEAST_PROBABILITY: Final = 1e-9
CHECKS: Final = (
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
class Verification:
    """Labelled images (`images[chosen]`), their labels as positions in the candidate's classes, and the accuracy to reach."""

    images: ImageSet
    chosen: Indices
    floor: float

    @property
    def labels(self) -> Indices:
        """int64 `[n]`."""
        return self.images.labels[self.chosen]


@dataclass(frozen=True)
class Verified:
    """What was found: checks, golden images with their files, metrics, and how far scores may be from the original's."""

    checks: tuple[Check, ...]
    golden: tuple[Golden, ...]
    files: Mapping[str, bytes]
    tolerance: float
    metrics: Metrics | None


def open_verification(
    folder: Path, class_names: tuple[str, ...], floor: float | None
) -> Verification:
    """Labelled images in a folder of folders that are called as the labels are. Raises ForeignModelError.

    Without a floor of its own the network must come half the way from chance to perfect.
    """
    try:
        images = with_classes(load_folder(folder), class_names)
    except DataError as error:
        raise ForeignModelError(
            f"--verify {folder}: {error}; its folders must be called as the labels are"
        ) from None
    if not len(images):
        raise ForeignModelError(f"--verify {folder} holds no images")
    if floor is not None and floor <= 1 / len(class_names):
        raise ForeignModelError(
            f"--min-accuracy {floor:g} is what guessing among {len(class_names)} classes gives, and proves nothing"
        )
    chosen = evenly_spaced(np.arange(len(images)), MOST_IMAGES)
    return Verification(images, chosen, (1 + 1 / len(class_names)) / 2 if floor is None else floor)


def verify(
    candidate: Candidate,
    verification: Verification | None,
    samples: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Verified:
    """Run every check on what would be sealed. `samples` labelled images at most go into the golden proof."""
    session = open_session(candidate.model, candidate.input, candidate.outputs)
    spec = candidate.preprocessing
    pixels = make_probes(candidate.input)
    labelled = None if verification is None else _decoded(verification, spec)
    if labelled is not None:
        pixels = np.concatenate(
            [
                pixels,
                evenly_spaced(labelled, _PARITY_IMAGES),
            ]
        )
    expected = candidate.original(pixels)
    require_finite(expected)
    tolerance = tolerance_of(expected)
    checks = [*_parity(candidate, session, pixels, expected, tolerance)]
    probes = [*(_samples(verification, samples) if verification else ()), *synthetic_probes()]
    decoded = [prepare(probe.encoded, spec) for probe in probes]
    blocks = tuple(
        make_golden_block(probe, candidate.original(image[np.newaxis])[0])
        for probe, image in zip(probes, decoded, strict=True)
    )
    files: dict[str, bytes] = {}
    for probe, image, block in zip(probes, decoded, blocks, strict=True):
        files |= {block.image: probe.encoded, block.pixels: to_npy(image)}
    encoded = [probe.encoded for probe in probes]
    checks += check_golden(
        list(zip(encoded, decoded, blocks, strict=True)), spec, session, tolerance
    )
    metrics = None
    if verification is not None and labelled is not None:
        scores = []
        for start in range(0, len(labelled), EXPORT_MAX_BATCH_SIZE):
            scores.append(
                run_in_batches(
                    session,
                    labelled[start : start + EXPORT_MAX_BATCH_SIZE],
                    candidate.max_batch_size,
                )
            )
            progress(min(start + EXPORT_MAX_BATCH_SIZE, len(labelled)), len(labelled))
        metrics = _measure(np.concatenate(scores), verification.labels)
        checks += _accuracy(candidate, verification, labelled, metrics)
    return Verified(tuple(checks), blocks, files, tolerance, metrics)


def _decoded(verification: Verification, spec: Preprocessing) -> Pixels:
    try:
        return verification.images.pixels(verification.chosen, spec, workers=2)
    except DataError as error:
        raise ForeignModelError(f"--verify: {error}") from None


def _parity(
    candidate: Candidate, session: Session, pixels: Pixels, expected: Logits, tolerance: float
) -> Iterator[Check]:
    sizes = [
        size for size in (1, ODD_BATCH, EXPORT_MAX_BATCH_SIZE) if size <= candidate.max_batch_size
    ]
    found = {size: run_in_batches(session, pixels, size) for size in sizes}
    for size, scores in found.items():
        yield at_most(
            f"parity_batch_{size}",
            max_abs(scores - expected),
            tolerance,
            "max |score - the original's|, probes",
        )
    spread = spread_of(expected)
    detail = (
        "how far a class's score changes over the probes: less, and their agreement proves nothing"
    )
    yield at_least("probe_spread", spread, SPREAD_IN_TOLERANCES * tolerance, detail)
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
    agreement = min(
        float((scores.argmax(1) == expected.argmax(1))[clear].mean()) if clear.any() else 0.0
        for scores in found.values()
    )
    yield at_least(
        "parity_top1",
        agreement,
        1.0,
        "share of probes with a clear answer that have the original's top-1",
    )
    if len(sizes) > 1:
        company = run_in_batches(session, pixels[::-1], EXPORT_MAX_BATCH_SIZE)[::-1]
        drift = max(max_abs(found[1] - other) for other in (*found.values(), company))
        yield at_most(
            "batch_invariance",
            drift,
            tolerance,
            "max change of a score with other neighbours and slots",
        )
    if candidate.identity_error is not None:
        detail = "max |mean(features) x weight + bias - logits|, what class-activation maps rest on"
        yield at_most("classifier_identity", candidate.identity_error, tolerance, detail)


def _accuracy(
    candidate: Candidate, verification: Verification, pixels: Pixels, metrics: Metrics
) -> Iterator[Check]:
    """Labelled images are read right, and no other reading of their pixels does better: a wrong mean or BGR is seen here."""
    yield at_least(
        "verify_images", len(pixels), FEWEST_IMAGES, "labelled images; fewer prove little"
    )
    classes = len(np.unique(verification.labels))
    yield at_least(
        "verify_classes",
        classes,
        2,
        "classes of them; one alone says nothing of the order of the labels",
    )
    yield at_least(
        "accuracy_floor",
        metrics.top1,
        verification.floor,
        f"top-1 on {len(pixels)} images of --verify",
    )
    if not candidate.other_readings:
        return
    few = evenly_spaced(np.arange(len(pixels)), _COMPARED)
    labels = verification.labels[few]
    own = _judge_by_labels(candidate, candidate.original(pixels[few]), labels)
    others = {
        name: _judge_by_labels(candidate, answers(pixels[few]), labels)
        for name, answers in candidate.other_readings.items()
    }
    chances = {
        name: min(1.0, _chance(own, other) * len(others)) for name, other in others.items()
    }  # Bonferroni: several were tried
    better = [name for name, chance in chances.items() if chance < SIGNIFICANCE] or [
        min(chances, key=lambda name: chances[name])
    ]
    best = max(better, key=lambda name: others[name].right)
    found = f"{own.right} of {len(few)} right, with {best} {others[best].right}"
    yield at_least(
        "no_better_reading",
        chances[best],
        SIGNIFICANCE,
        f"chance of that if it read pixels right: {found}",
    )


@dataclass(frozen=True)
class _ByLabels:
    """How many images were read right, and the log-probability of each one's own label."""

    right: int
    likelihoods: NDArray[np.float64]


def _judge_by_labels(candidate: Candidate, scores: Logits, labels: Indices) -> _ByLabels:
    of_label = probabilities(scores, candidate.outputs)[np.arange(len(labels)), labels].astype(
        np.float64
    )
    return _ByLabels(
        int((scores.argmax(1) == labels).sum()), np.log(np.maximum(of_label, _LEAST_PROBABILITY))
    )


def _chance(own: _ByLabels, other: _ByLabels) -> float:
    """The chance that labels are so much likelier under another reading that reads more of them right, were it no better.

    Wilcoxon's signed-rank test on each image's pair: it sees in 200 images what counting mistakes sees in 1,000.
    """
    gains = other.likelihoods - own.likelihoods
    if other.right <= own.right or not gains.any():
        return 1.0
    return float(wilcoxon(gains, alternative="greater").pvalue)


def _measure(scores: Logits, labels: Indices) -> Metrics:
    order = torch.from_numpy(scores).argsort(dim=1, descending=True).numpy()[:, :5]
    right = order == labels[:, None]
    correct = int(right[:, 0].sum())
    return Metrics(
        top1=correct / len(labels),
        top5=int(right.sum()) / len(labels),
        test_images=len(labels),
        top1_interval=wilson_interval(correct, len(labels)),
    )


def _samples(verification: Verification, number: int) -> Iterator[Probe]:
    """Labelled images of as many classes as there are samples."""
    images, chosen = verification.images, verification.chosen
    _, firsts = np.unique(verification.labels, return_index=True)
    spread = evenly_spaced(firsts, number)
    for position, index in enumerate(chosen[spread] if number else [], start=1):
        encoded = images.encoded[index]
        kind = (sniff(encoded) or "").lower().replace("jpeg", "jpg")
        yield Probe(
            f"sample-{position}.{kind}",
            encoded,
            f"an image of --verify, class {images.label(index)}",
        )
