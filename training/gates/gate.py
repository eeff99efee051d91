"""Gates: what must be true of an export before it is published, each a check with a threshold and what was found."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from pydantic import ValidationError

from model_store.files import sha256_of
from model_store.manifest import Check
from model_store.session import Logits, Session
from model_store.store import ModelStore
from training.errors import GateError, RunError
from training.gates.checks import LOGIT_TOLERANCE, at_least, at_most, max_abs
from training.gates.preprocessing import PREPROCESSING_FAULTS, accuracy_checks, golden_checks
from training.gates.vs_live_version import (
    LATENCY_CHECK,
    LIVE_READABLE_CHECK,
    NOT_WORSE_THAN_LIVE_CHECK,
    SIZE_CHECK,
    compare_with_live,
)
from training.gates.vs_previous_version import SIGNIFICANCE, compare_with_previous
from training.run.data import RunData
from training.run.directory import RunDirectory, damaged
from training.run.inference import run_in_batches
from training.run.weights import PREVIOUS_WEIGHTS
from training.steps.evaluate import read_logits
from training.steps.export import CLASSIFIER_FILE, MODEL_FILE, OUTPUTS, graph_files, model_input
from training.steps.golden import GOLDEN_FILE, read_golden

GATES_FILE: Final = "gates.json"
EXPORT_MAX_BATCH_SIZE: Final = 32
ODD_BATCH: Final = 7
NOT_WORSE_CHECK: Final = "not_worse"


def gate(
    run: RunDirectory,
    data: RunData,
    waivers: Mapping[str, str] | None = None,
    store: ModelStore | None = None,
) -> tuple[Check, ...]:
    """Run every check on the exported file and leave the findings in the run, with the digests of the files they hold for.

    `waivers` maps a check's name to the owner's reason. The live version that the export is held against is `store`'s. Raises
    GateError for a waiver of a check that does not exist, ModelStoreError where the live version can not be read.
    """
    waivers = waivers or {}
    check_waivers(waivers)
    files = _digests(run)
    session = Session(run.file(MODEL_FILE, "export"), model_input(run), OUTPUTS)
    checks = [
        *_parity(run, data, session),
        *accuracy_checks(run, data, session),
        *golden_checks(run, data, session),
        *_succession(run, data),
        *(compare_with_live(run, data, session, EXPORT_MAX_BATCH_SIZE, store) if store else ()),
    ]
    found = apply_waivers(checks, waivers)
    run.write_json(GATES_FILE, {"files": files, "checks": [check.model_dump() for check in found]})
    return found


def apply_waivers(checks: Iterable[Check], waivers: Mapping[str, str]) -> tuple[Check, ...]:
    """The checks, with the owner's reason at those that failed and have one."""
    return tuple(
        check
        if check.passed or check.check not in waivers
        else check.model_copy(update={"waived": waivers[check.check]})
        for check in checks
    )


def read_checks(run: RunDirectory) -> tuple[Check, ...]:
    """What the checks found on the files that lie here now.

    Raises RunError where `gate` has not run, or files have changed since it did.
    """
    values = run.read_json(GATES_FILE, "gate")
    try:
        gated, checks = (
            values["files"],
            tuple(Check.model_validate(check) for check in values["checks"]),
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise damaged(run.path / GATES_FILE, error) from None
    if changed := sorted(
        name for name, digest in _digests(run).items() if gated.get(name) != digest
    ):
        raise RunError(
            f"{', '.join(changed)} changed after the gates; run `python -m training gate {run.path}` again"
        )
    return checks


def check_waivers(waivers: Mapping[str, str], known: Sequence[str] | None = None) -> None:
    """Raise GateError for a waiver of a check that does not exist among `known`, else CHECKS."""
    known = CHECKS if known is None else known
    if unknown := sorted(set(waivers) - set(known)):
        raise GateError(f"there is no check {', '.join(unknown)}; there are {', '.join(known)}")


def _digests(run: RunDirectory) -> dict[str, str]:
    """sha256 of every file that a publish would seal and the gates look at."""
    images = [path for block in read_golden(run) for path in (block.image, block.pixels)]
    return {
        name: sha256_of(run.file(name, "export"))
        for name in (*graph_files(run), CLASSIFIER_FILE, GOLDEN_FILE, *images)
    }


def require_passed(checks: tuple[Check, ...]) -> None:
    """Raise GateError that names the checks that failed without a waiver."""
    if failed := [check.check for check in checks if not check.passed and not check.waived]:
        waiver = f"--waive {failed[0]}='REASON'"
        raise GateError(
            f"not published: {', '.join(failed)} failed. Mend the cause, or publish knowingly with {waiver}"
        )


def _parity(run: RunDirectory, data: RunData, session: Session) -> Iterator[Check]:
    """Torch and ONNX Runtime give the same logits at batch 1, an odd size and the maximum, and an image's own in any company."""
    expected = read_logits(run)
    sizes = (1, ODD_BATCH, EXPORT_MAX_BATCH_SIZE)
    chunks: list[tuple[Logits, ...]] = []
    for chunk in data.chunks(data.split.test):
        in_company = run_in_batches(session, chunk[::-1], EXPORT_MAX_BATCH_SIZE)[::-1]
        chunks.append((*(run_in_batches(session, chunk, size) for size in sizes), in_company))
    *found, company = (np.concatenate(logits) for logits in zip(*chunks, strict=True))
    by_size = dict(zip(sizes, found, strict=True))
    for size, logits in by_size.items():
        yield at_most(
            f"parity_batch_{size}",
            max_abs(logits - expected),
            LOGIT_TOLERANCE,
            "max |logit - torch's|, test split",
        )
    agreement = min(
        float((logits.argmax(1) == expected.argmax(1)).mean()) for logits in by_size.values()
    )
    yield at_least("parity_top1", agreement, 1.0, "share of test images with torch's top-1")
    others = (by_size[ODD_BATCH], by_size[EXPORT_MAX_BATCH_SIZE], company)
    drift = max(max_abs(by_size[1] - other) for other in others)
    yield at_most(
        "batch_invariance",
        drift,
        LOGIT_TOLERANCE,
        "max change of a logit with other neighbours and slots",
    )


def _succession(run: RunDirectory, data: RunData) -> Iterator[Check]:
    """A retrained model is not worse than the one it follows, on the test images of the classes that both have."""
    if run.has(PREVIOUS_WEIGHTS):
        found = compare_with_previous(run, data)
        detail = f"chance of {found.lost} losses against {found.gained} gains if it were no worse (McNemar, one-sided)"
        yield at_least(NOT_WORSE_CHECK, found.p_worse, SIGNIFICANCE, detail)


CHECKS: Final = (
    *(f"parity_batch_{size}" for size in (1, ODD_BATCH, EXPORT_MAX_BATCH_SIZE)),
    "parity_top1",
    "batch_invariance",
    "accuracy_png",
    "accuracy_jpeg",
    "orientation",
    "accuracy_floor",
    "golden_numerics",
    "golden_decode",
    *(f"golden_notices_{fault}" for fault in PREPROCESSING_FAULTS),
    NOT_WORSE_CHECK,
    NOT_WORSE_THAN_LIVE_CHECK,
    LATENCY_CHECK,
    SIZE_CHECK,
    LIVE_READABLE_CHECK,
)
"""The name of every check, so that a slip in a waiver is found before the work and not after it."""
