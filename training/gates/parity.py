"""Gate: the exported graph gives torch's logits, in batches of any size and composition."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import Check
from model_store.session import Logits, Session
from training.gates.checks import (
    EXPLODED_LOGIT,
    LOGIT_TOLERANCE,
    SCALE_DETAIL,
    at_least,
    at_most,
    logit_scales,
    max_abs,
    scaled_difference,
)
from training.run.data import RunData
from training.run.directory import Run
from training.run.inference import run_in_batches
from training.steps.evaluate import read_logits
from training.steps.export import EXPORT_MAX_BATCH_SIZE

ODD_BATCH: Final = 7
BATCH_SIZES: Final = (1, ODD_BATCH, EXPORT_MAX_BATCH_SIZE)


def parity_checks(run: Run, data: RunData, session: Session) -> Iterator[Check]:
    """Check that test logits equal torch's, and do not depend on the batch of an image."""
    expected = read_logits(run)
    chunks: list[tuple[Logits, ...]] = []
    for chunk in data.chunks(data.split.test):
        reversed_logits = run_in_batches(session, chunk[::-1], EXPORT_MAX_BATCH_SIZE)[::-1]
        by_size = (run_in_batches(session, chunk, size) for size in BATCH_SIZES)
        chunks.append((*by_size, reversed_logits))
    *by_batch_size, by_reversed = (np.concatenate(logits) for logits in zip(*chunks, strict=True))
    for size, logits in zip(BATCH_SIZES, by_batch_size, strict=True):
        difference = scaled_difference(logits, expected)
        detail = f"max |logit - torch's|, test split; {SCALE_DETAIL}"
        yield at_most(f"parity_batch_{size}", difference, LOGIT_TOLERANCE, detail)
    disagreement = max(float(_top1_differs(logits, expected).mean()) for logits in by_batch_size)
    detail = "share of test images with torch's top-1, or with one that is within the tolerance"
    yield at_least("parity_top1", 1 - disagreement, 1.0, detail)
    single, *others = (*by_batch_size, by_reversed)
    change = max(scaled_difference(other, single) for other in others)
    detail = f"max change of a logit with batch size, neighbours and position; {SCALE_DETAIL}"
    yield at_most("batch_invariance", change, LOGIT_TOLERANCE, detail)


def exploded_logits(run: Run) -> Iterator[str]:
    """Yield a sentence if the logits are so large that the network has nearly diverged."""
    largest = max_abs(read_logits(run))
    if largest > EXPLODED_LOGIT:
        yield (
            f"the logits have exploded: they reach {largest:.1e}, and usual ones about 10. The "
            "probabilities are 0 or 1, and the tolerances of the gates are larger. Train with a "
            "lower optimizer.learning_rate"
        )


def _top1_differs(logits: Logits, expected: Logits) -> NDArray[np.bool_]:
    rows, chosen = np.arange(len(expected)), logits.argmax(1)
    behind = expected.max(axis=1) - expected[rows, chosen]
    return np.asarray(behind > 2 * LOGIT_TOLERANCE * logit_scales(expected)[:, 0])
