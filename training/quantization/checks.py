"""The gates of a variant: what another precision may change of fp32's answers, its size and its speed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import Check, Manifest, Precision
from model_store.preprocessing import Pixels
from model_store.session import Logits, Session
from model_store.speed import batches_up_to, speed_up, time_in_turn
from model_store.uncertainty import CLEAR_MARGIN, margins
from training.gates.checks import LOGIT_TOLERANCE, at_least, at_most
from training.gates.gate import ODD_BATCH, apply_waivers
from training.quantization.scoring import Scorer
from training.quantization.sensitivity import relative_drift
from training.run.inference import run_in_batches
from training.steps.calibrate import (
    ABSTENTION_LIMIT,
    COVERAGES,
    ECE_ALLOWANCE,
    largest_share_by_chance,
    measure_calibration,
)

CHECKS: Final = (
    "top1_loss",
    "logit_drift",
    "flips_near_margin",
    "flips_clear",
    "golden_top1",
    "abstained",
    *(f"coverage_{coverage}" for coverage in COVERAGES),
    "calibration_error",
    "batch_invariance",
    "size",
    "speed",
)
DRIFT: Final[Mapping[Precision, float]] = {"int8": 0.1, "fp16": 0.01, "bf16": 0.05}
SIZE: Final[Mapping[Precision, float]] = {"int8": 0.5, "fp16": 0.6, "bf16": 0.6}
NEAR_FLIPS: Final = 0.02
MAX_LOSS: Final = 0.5  # points of top-1
FEW_IMAGES: Final = (
    2  # so many may change of few images: of 60, one is more than a point, and says nothing
)
CLEAR_FLIPS: Final = 0.001
INVARIANCE_IMAGES: Final = 96
SPEED_ROUNDS: Final = 16


@dataclass(frozen=True)
class Candidate:
    """A variant to be gated beside fp32: both files, their sessions, and their logits on the same test images."""

    precision: Precision
    data: bytes
    fp32_data: bytes
    session: Session
    fp32_session: Session
    logits: Logits
    expected: Logits
    labels: NDArray[np.int64]
    golden_logits: Logits
    golden_expected: Logits
    tolerance: float


def check_candidate(
    candidate: Candidate,
    scorer: Scorer,
    sample: Pixels,
    max_loss: float,
    waivers: Mapping[str, str],
) -> tuple[Check, ...]:
    """Every check of the variant; `max_loss` in points of top-1, `sample` a few test images."""
    checks = [
        *_answers(candidate, scorer, max_loss),
        _golden(candidate, scorer),
        *_calibration(candidate, scorer.manifest),
        *_invariance(candidate, scorer, sample),
        _size(candidate),
        *_speed(candidate, scorer),
    ]
    return apply_waivers(checks, waivers)


def lost_points(logits: Logits, expected: Logits, labels: NDArray[np.int64]) -> float:
    """Points of top-1 that were lost; negative where some were gained."""
    before, after = ((scores.argmax(1) == labels).mean() for scores in (expected, logits))
    return float(100 * (before - after))


def _answers(candidate: Candidate, scorer: Scorer, max_loss: float) -> Iterator[Check]:
    images = f"{len(candidate.labels)} images of the test split"
    lost = lost_points(candidate.logits, candidate.expected, candidate.labels)
    yield at_most("top1_loss", lost, max_loss, f"points of top-1 that fp32 has more on {images}")
    drift = relative_drift(candidate.logits, candidate.expected)
    detail = f"rms of the logits' change in standard deviations of fp32's, {images}"
    yield at_most("logit_drift", drift, DRIFT[candidate.precision], detail)
    flipped = candidate.logits.argmax(1) != candidate.expected.argmax(1)
    clear = margins(scorer.probabilities(candidate.expected)) >= CLEAR_MARGIN
    detail = (
        f"share of {images} whose top-1 changed where fp32 is within {CLEAR_MARGIN} of probability"
    )
    yield at_most(
        "flips_near_margin",
        float((flipped & ~clear).mean()),
        max(NEAR_FLIPS, FEW_IMAGES / len(flipped)),
        detail,
    )
    detail = f"share of {images} whose top-1 changed where fp32 is surer than that"
    yield at_most("flips_clear", float((flipped & clear).mean()), CLEAR_FLIPS, detail)


def _golden(candidate: Candidate, scorer: Scorer) -> Check:
    if not len(candidate.golden_expected):
        return at_most("golden_top1", 0, 0, "there are no golden images")
    flipped = candidate.golden_logits.argmax(1) != candidate.golden_expected.argmax(1)
    clear = margins(scorer.probabilities(candidate.golden_expected)) >= CLEAR_MARGIN
    return at_most(
        "golden_top1",
        int((flipped & clear).sum()),
        0,
        "golden images with another top-1 where fp32's is clear",
    )


def _calibration(candidate: Candidate, manifest: Manifest) -> Iterator[Check]:
    """The calibration was fitted on fp32's logits: what it promises holds for the variant's, as far as it does for fp32's.

    Nothing where the version has none.
    """
    calibration, images = manifest.calibration, len(candidate.labels)
    if calibration is None or manifest.outputs.kind != "logits":
        return
    fitted_on = (
        manifest.training.data.split.get("validation", images) if manifest.training else images
    )
    of_numbers = np.nan_to_num(
        candidate.logits
    )  # what is no number says nothing, and has failed `logit_drift`
    before, after = (
        measure_calibration(calibration, logits, candidate.labels)
        for logits in (candidate.expected, of_numbers)
    )
    if before.abstained is not None and after.abstained is not None:
        bound = largest_share_by_chance(max(ABSTENTION_LIMIT, before.abstained), images, fitted_on)
        detail = f"share of {images} images of the test split that are refused; {before.abstained:.4f} in fp32"
        yield at_most("abstained", after.abstained, bound, detail)
    for coverage, figures in after.sets.items():
        in_fp32 = before.sets[coverage].coverage
        bound = 1 - largest_share_by_chance(
            max(1 - float(coverage), 1 - in_fp32), images, fitted_on
        )
        yield at_least(
            f"coverage_{coverage}",
            figures.coverage,
            bound,
            f"share of sets that hold the label; {in_fp32:.4f} in fp32",
        )
    bound = max(before.ece_before, before.ece_after) + ECE_ALLOWANCE
    yield at_most(
        "calibration_error",
        after.ece_after,
        bound,
        f"expected, on the test split; {before.ece_after:.4f} in fp32",
    )


def _invariance(candidate: Candidate, scorer: Scorer, sample: Pixels) -> Iterator[Check]:
    """Nothing where the model takes single images alone."""
    if scorer.batch == 1:
        return
    alone, *others = (
        run_in_batches(candidate.session, sample, size)
        for size in sorted({1, min(ODD_BATCH, scorer.batch), scorer.batch})
    )
    bound = LOGIT_TOLERANCE if candidate.precision == "int8" else candidate.tolerance
    drift = max(float(np.abs(alone - other).max()) for other in others)
    yield at_most(
        "batch_invariance",
        drift,
        bound,
        f"max change of a logit with other neighbours, {len(sample)} images",
    )


def _size(candidate: Candidate) -> Check:
    share = len(candidate.data) / len(candidate.fp32_data)
    return at_most(
        "size", share, SIZE[candidate.precision], f"of fp32's {len(candidate.fp32_data):,} bytes"
    )


def _speed(candidate: Candidate, scorer: Scorer) -> Iterator[Check]:
    """Only where the precision is meant for: half floats on a CPU say nothing."""
    if candidate.precision != "int8" and not scorer.uses_gpu:
        return
    shape = scorer.manifest.input
    runs: dict[str, Callable[[Pixels], object]] = {
        "fp32": candidate.fp32_session.run,
        candidate.precision: candidate.session.run,
    }
    seconds = time_in_turn(
        runs,
        shape,
        rounds=SPEED_ROUNDS,
        budget_seconds=20,
        least_rounds=5,
        batches=batches_up_to(scorer.manifest.max_batch_size),
    )
    slow, fast = seconds["fp32"][1:], seconds[candidate.precision][1:]
    by_round = [speed_up(a[None], b[None]) for a, b in zip(slow, fast, strict=True)]
    # The upper quartile: a busy machine slows some rounds down, and only what is slower in most of them is refused.
    value = float(np.quantile(by_round, 0.75))
    detail = f"times fp32's speed, upper quartile of {len(by_round)} rounds in turn, one thread; median {np.median(by_round):.2f}"
    yield at_least("speed", value, 1.0, detail)


def tolerance_of(precision: Precision, drifts: Sequence[float]) -> float:
    """How far the golden logits may be elsewhere from those found here: by as much as the conversion itself moved a logit.

    INT8 sums are the same everywhere, and kernels differ in rounding alone. Half floats are summed in another order on a GPU: two
    files of half the bits, each so far from fp32.
    """
    return max(LOGIT_TOLERANCE, (1 if precision == "int8" else 2) * max(drifts, default=0.0))


def golden_expected(manifest: Manifest) -> Logits:
    """Training's logits of the golden images, `[n, classes]`."""
    return np.array([golden.logits for golden in manifest.golden], np.float32).reshape(
        -1, len(manifest.class_names)
    )
