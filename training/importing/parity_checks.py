"""Checks that compare an import with the reference's scores on the probes."""

from collections.abc import Iterator

import numpy as np

from model_store.manifest import Check
from model_store.preprocessing import Pixels
from model_store.session import Logits, Session
from training.gates.checks import at_least, at_most, max_abs
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
