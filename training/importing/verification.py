"""Runs every check of an import, and creates the golden images of the version."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from model_store.image_header import sniff
from model_store.manifest import Check, Golden
from model_store.preprocessing import Pixels, prepare
from model_store.provenance import Metrics
from model_store.session import Session
from training.data.sampling import evenly_spaced
from training.gates.checks import logit_tolerance
from training.gates.preprocessing import check_golden
from training.importing.accuracy_checks import (
    VerificationSet,
    check_accuracy,
    decode_images,
    score_labelled,
)
from training.importing.candidate import ImportCandidate, open_session
from training.importing.parity_checks import check_parity
from training.importing.probes import make_probes, require_finite
from training.reports.evaluation_report import EvaluatedImages
from training.steps.evaluate import measure
from training.steps.golden import SAMPLE_PREFIX, Probe, make_golden_block, synthetic_probes, to_npy

_PARITY_IMAGES: Final = 32


@dataclass(frozen=True)
class VerificationResult:
    """The outcome of every check, and the parts that a version stores.

    `tolerance` is the largest allowed difference of a score from the reference. `metrics` and
    `evaluated` are about the labelled images; None without them.
    """

    checks: tuple[Check, ...]
    golden: tuple[Golden, ...]
    files: Mapping[str, bytes]
    tolerance: float
    metrics: Metrics | None
    evaluated: EvaluatedImages | None


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
        labelled = decode_images(verification_set, verification_set.chosen, candidate.preprocessing)
        pixels = np.concatenate([pixels, evenly_spaced(labelled, _PARITY_IMAGES)])
    expected = candidate.reference(pixels)
    require_finite(expected)
    tolerance = logit_tolerance(expected)
    checks = [*check_parity(candidate, session, pixels, expected)]
    probes = [*_sample_probes(verification_set, golden_samples), *synthetic_probes()]
    golden, files, golden_checks = _golden_proof(candidate, session, probes, tolerance)
    checks += golden_checks
    metrics, evaluated = None, None
    if verification_set is not None and labelled is not None:
        scores = score_labelled(session, labelled, candidate.max_batch_size, progress)
        require_finite(scores)
        evaluated = EvaluatedImages(
            verification_set.images,
            verification_set.chosen,
            scores,
            candidate.outputs,
            lambda indices: [decode_images(verification_set, indices, candidate.preprocessing)],
        )
        metrics = measure(scores, verification_set.labels, candidate.outputs)
        checks += check_accuracy(candidate, verification_set, labelled, metrics)
    return VerificationResult(tuple(checks), golden, files, tolerance, metrics, evaluated)


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
        yield Probe(f"{SAMPLE_PREFIX}{number}.{suffix}", encoded, purpose)
