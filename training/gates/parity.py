"""Gate: the exported graph gives torch's logits, in batches of any size and composition."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from model_store.manifest import Check
from model_store.session import Logits, Session
from training.gates.checks import LOGIT_TOLERANCE, at_least, at_most, max_abs
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
        difference = max_abs(logits - expected)
        detail = "max |logit - torch's|, test split"
        yield at_most(f"parity_batch_{size}", difference, LOGIT_TOLERANCE, detail)
    agreement = min(
        float((logits.argmax(1) == expected.argmax(1)).mean()) for logits in by_batch_size
    )
    yield at_least("parity_top1", agreement, 1.0, "share of test images with torch's top-1")
    single, *others = (*by_batch_size, by_reversed)
    change = max(max_abs(single - other) for other in others)
    detail = "max change of a logit with batch size, neighbours and position"
    yield at_most("batch_invariance", change, LOGIT_TOLERANCE, detail)
