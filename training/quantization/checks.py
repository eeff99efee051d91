"""Checks of a variant: limits for its predictions, size and speed compared with fp32."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import Check, Manifest, Precision
from model_store.preprocessing import Pixels
from model_store.session import Logits, Session
from model_store.timing import speedup, time_alternately, timed_batch_sizes
from model_store.uncertainty import CLEAR_MARGIN, margins
from training.gates.checks import (
    LOGIT_TOLERANCE,
    SCALE_DETAIL,
    at_least,
    at_most,
    max_abs,
    scaled_difference,
)
from training.gates.gate import apply_waivers
from training.gates.parity import ODD_BATCH
from training.quantization.scoring import Scorer
from training.quantization.sensitivity import relative_drift
from training.run.inference import run_in_batches
from training.steps.calibration_fit import (
    ABSTENTION_LIMIT,
    ECE_ALLOWANCE,
    largest_share_by_chance,
    measure_calibration,
)

MAX_DRIFT: Final[Mapping[Precision, float]] = {"int8": 0.1, "fp16": 0.01, "bf16": 0.05}
MAX_SIZE_SHARE: Final[Mapping[Precision, float]] = {"int8": 0.5, "fp16": 0.6, "bf16": 0.6}
MAX_NEAR_FLIPS: Final = 0.02
MAX_CLEAR_FLIPS: Final = 0.001
ALLOWED_CHANGED_IMAGES: Final = 2
"""This many images may always change: in a split of 60, one is already over a percentage point."""
INVARIANCE_IMAGES: Final = 96
SPEED_ROUNDS: Final = 16


@dataclass(frozen=True)
class VariantCandidate:
    """A variant to check: both files, their sessions, and their logits on the same images.

    `logits`, `expected` (from fp32) and `labels` cover the test split. `tolerance` is the largest
    allowed difference of the golden images' logits from those of this machine.
    """

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


def check_variant(
    candidate: VariantCandidate,
    scorer: Scorer,
    sample: Pixels,
    max_loss: float,
    waivers: Mapping[str, str],
) -> tuple[Check, ...]:
    """Run every check of the variant.

    Args:
        sample: A few test images for the comparison of batch sizes.
        max_loss: Percentage points of top-1 that may be lost.
        waivers: Reasons by check name.
    """
    checks = [
        *_check_predictions(candidate, scorer, max_loss),
        _check_golden(candidate, scorer),
        *_check_calibration(candidate, scorer.manifest),
        *_check_batch_invariance(candidate, scorer, sample),
        _check_size(candidate),
        *_check_speed(candidate, scorer),
    ]
    return apply_waivers(checks, waivers)


def top1_loss_points(logits: Logits, expected: Logits, labels: NDArray[np.int64]) -> float:
    """Percentage points of top-1 that `logits` lose against `expected`; negative for a gain."""
    before, after = ((scores.argmax(1) == labels).mean() for scores in (expected, logits))
    return float(100 * (before - after))


def _check_predictions(
    candidate: VariantCandidate, scorer: Scorer, max_loss: float
) -> Iterator[Check]:
    images = f"{len(candidate.labels)} images of the test split"
    loss = top1_loss_points(candidate.logits, candidate.expected, candidate.labels)
    yield at_most(
        "top1_loss", loss, max_loss, f"percentage points of top-1 below fp32's on {images}"
    )
    yield at_most(
        "logit_drift",
        relative_drift(candidate.logits, candidate.expected),
        MAX_DRIFT[candidate.precision],
        f"rms change of the logits in standard deviations of fp32's, {images}",
    )
    flipped, clear = _flips(candidate.logits, candidate.expected, scorer)
    yield at_most(
        "flips_near_margin",
        float((flipped & ~clear).mean()),
        max(MAX_NEAR_FLIPS, ALLOWED_CHANGED_IMAGES / len(flipped)),
        f"share of {images} with another top-1, fp32's margin below {CLEAR_MARGIN} of probability",
    )
    yield at_most(
        "flips_clear",
        float((flipped & clear).mean()),
        MAX_CLEAR_FLIPS,
        f"share of {images} with another top-1, fp32's margin at least {CLEAR_MARGIN}",
    )


def _flips(
    logits: Logits, expected: Logits, scorer: Scorer
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Per image: whether top-1 changed, and whether fp32's top-1 was clear."""
    flipped = logits.argmax(1) != expected.argmax(1)
    return flipped, margins(scorer.probabilities(expected)) >= CLEAR_MARGIN


def _check_golden(candidate: VariantCandidate, scorer: Scorer) -> Check:
    if not len(candidate.golden_expected):
        return at_most("golden_top1", 0, 0, "the version has no golden images")
    flipped, clear = _flips(candidate.golden_logits, candidate.golden_expected, scorer)
    detail = "golden images with another top-1 although fp32's is clear"
    return at_most("golden_top1", int((flipped & clear).sum()), 0, detail)


def _check_calibration(candidate: VariantCandidate, manifest: Manifest) -> Iterator[Check]:
    """Check that the calibration, which was fitted on fp32's logits, also fits the variant.

    Yields nothing for a version without calibration.
    """
    calibration, images = manifest.calibration, len(candidate.labels)
    if calibration is None or manifest.outputs.kind != "logits":
        return
    fitted_on = (
        manifest.training.data.split.get("validation", images) if manifest.training else images
    )
    finite = np.nan_to_num(candidate.logits)  # `logit_drift` reports NaN
    before, after = (
        measure_calibration(calibration, logits, candidate.labels)
        for logits in (candidate.expected, finite)
    )
    if before.abstained is not None and after.abstained is not None:
        bound = largest_share_by_chance(max(ABSTENTION_LIMIT, before.abstained), images, fitted_on)
        detail = f"share of {images} test images on which it abstains; fp32: {before.abstained:.4f}"
        yield at_most("abstained", after.abstained, bound, detail)
    for coverage, figures in after.sets.items():
        fp32_coverage = before.sets[coverage].coverage
        bound = 1 - largest_share_by_chance(
            max(1 - float(coverage), 1 - fp32_coverage), images, fitted_on
        )
        detail = f"share of prediction sets with the label; fp32: {fp32_coverage:.4f}"
        yield at_least(f"coverage_{coverage}", figures.coverage, bound, detail)
    bound = max(before.ece_before, before.ece_after) + ECE_ALLOWANCE
    detail = f"expected calibration error on the test split; fp32: {before.ece_after:.4f}"
    yield at_most("calibration_error", after.ece_after, bound, detail)


def _check_batch_invariance(
    candidate: VariantCandidate, scorer: Scorer, sample: Pixels
) -> Iterator[Check]:
    """Yields nothing for a model that takes single images only."""
    if scorer.batch == 1:
        return
    alone, *others = (
        run_in_batches(candidate.session, sample, size)
        for size in sorted({1, min(ODD_BATCH, scorer.batch), scorer.batch})
    )
    detail = f"largest change of a logit between batch sizes, {len(sample)} images"
    if candidate.precision == "int8":
        change = max(scaled_difference(other, alone) for other in others)
        yield at_most("batch_invariance", change, LOGIT_TOLERANCE, f"{detail}; {SCALE_DETAIL}")
    else:
        change = max(max_abs(alone - other) for other in others)
        yield at_most("batch_invariance", change, candidate.tolerance, detail)


def _check_size(candidate: VariantCandidate) -> Check:
    share = len(candidate.data) / len(candidate.fp32_data)
    detail = f"of fp32's {len(candidate.fp32_data):,} bytes"
    return at_most("size", share, MAX_SIZE_SHARE[candidate.precision], detail)


def _check_speed(candidate: VariantCandidate, scorer: Scorer) -> Iterator[Check]:
    """Yields nothing for half precision on a CPU, which is meant for GPUs."""
    if candidate.precision != "int8" and not scorer.uses_gpu:
        return
    runs: dict[str, Callable[[Pixels], object]] = {
        "fp32": candidate.fp32_session.run,
        candidate.precision: candidate.session.run,
    }
    seconds = time_alternately(
        runs,
        scorer.manifest.input,
        rounds=SPEED_ROUNDS,
        budget_seconds=20,
        min_rounds=5,
        batch_sizes=timed_batch_sizes(scorer.manifest.max_batch_size),
        clock=time.perf_counter if scorer.uses_gpu else time.thread_time,
    )
    # The first round warms up.
    fp32_rounds, variant_rounds = seconds["fp32"][1:], seconds[candidate.precision][1:]
    by_round = [
        speedup(fp32[None], variant[None])
        for fp32, variant in zip(fp32_rounds, variant_rounds, strict=True)
    ]
    # The upper quartile, because other work on the machine slows some rounds down: it evicts
    # caches, even if only CPU time counts.
    yield at_least(
        "speed",
        float(np.quantile(by_round, 0.75)),
        1.0,
        f"times fp32's speed in {'time' if scorer.uses_gpu else 'CPU time'}, upper quartile of "
        f"{len(by_round)} alternating rounds, one thread; median {np.median(by_round):.2f}",
    )


def golden_tolerance(precision: Precision, drifts: Sequence[float]) -> float:
    """Largest allowed difference of golden logits between another machine and this one.

    It is the largest change of a logit by the conversion (`drifts`), and at least fp32's
    tolerance. INT8 sums are exact on every CPU. Half-precision sums depend on their order, so two
    machines may each differ from fp32 by that much.
    """
    return max(LOGIT_TOLERANCE, (1 if precision == "int8" else 2) * max(drifts, default=0.0))


def golden_expected(manifest: Manifest) -> Logits:
    """The logits of the golden images in the manifest, `[n, classes]`."""
    return np.array([golden.logits for golden in manifest.golden], np.float32).reshape(
        -1, len(manifest.class_names)
    )
