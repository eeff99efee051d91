"""Checks that compare an import with the reference's scores on the probes."""

from collections.abc import Iterator

import numpy as np

from model_store.manifest import Check
from model_store.preprocessing import Pixels
from model_store.session import Logits, Session
from training.gates.checks import (
    LOGIT_TOLERANCE,
    SCALE_DETAIL,
    at_least,
    at_most,
    logit_scales,
    logit_tolerance,
    scaled_difference,
)
from training.gates.parity import ODD_BATCH
from training.importing.candidate import ImportCandidate
from training.importing.probes import SPREAD_IN_TOLERANCES, score_spread
from training.run.inference import run_in_batches
from training.steps.export import EXPORT_MAX_BATCH_SIZE


def check_parity(
    candidate: ImportCandidate,
    session: Session,
    pixels: Pixels,
    expected: Logits,
) -> Iterator[Check]:
    """Compare the session's scores with the reference's (`expected`) in several batch sizes."""
    sizes = [
        size for size in (1, ODD_BATCH, EXPORT_MAX_BATCH_SIZE) if size <= candidate.max_batch_size
    ]
    by_size = {size: run_in_batches(session, pixels, size) for size in sizes}
    for size, scores in by_size.items():
        yield at_most(
            f"parity_batch_{size}",
            scaled_difference(scores, expected),
            LOGIT_TOLERANCE,
            f"largest |score - the reference's| over the probes; {SCALE_DETAIL}",
        )
    yield at_least(
        "probe_spread",
        score_spread(expected),
        SPREAD_IN_TOLERANCES * logit_tolerance(expected),
        "largest change of a class's score over the probes; below it, agreement proves nothing",
    )
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * LOGIT_TOLERANCE * logit_scales(expected)[:, 0]
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
        others = (*by_size.values(), reversed_order)
        drift = max(scaled_difference(other, by_size[1]) for other in others)
        yield at_most(
            "batch_invariance",
            drift,
            LOGIT_TOLERANCE,
            f"largest change of a score when an image shares its batch with others; {SCALE_DETAIL}",
        )
    if candidate.identity_error is not None:
        yield at_most(
            "classifier_identity",
            candidate.identity_error,
            LOGIT_TOLERANCE,
            "largest |mean(features) x weight + bias - logits|, needed for class-activation maps; "
            f"{SCALE_DETAIL}",
        )
