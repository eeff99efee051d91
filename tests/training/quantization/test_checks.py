"""The gates of a variant fail for what they are there for, and for nothing else."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from model_store.manifest import Check
from model_store.session import Session
from model_store.version import Version
from training.quantization.checks import (
    CHECKS,
    Candidate,
    check_candidate,
    lost_points,
    tolerance_of,
)
from training.quantization.scoring import Scorer, score, scorer
from training.run.data import RunData


@pytest.fixture(scope="module")
def scoring(digits: Version) -> Iterator[Scorer]:
    with scorer(digits.manifest) as opened:
        yield opened


@pytest.fixture(scope="module")
def same(scoring: Scorer, digits_graph: bytes, digits_data: RunData) -> Candidate:
    """A candidate that is fp32 itself, in a file of a third of the size."""
    session: Session = scoring.open(digits_graph)
    test = digits_data.split.test
    logits = score(session, digits_data.chunks(test))
    return Candidate(
        "int8",
        digits_graph[: len(digits_graph) // 3],
        digits_graph,
        session,
        session,
        logits,
        logits,
        digits_data.images.labels[test],
        logits[:5],
        logits[:5],
        tolerance=0.1,
    )


def check(candidate: Candidate, scoring: Scorer, data: RunData, **waivers: str) -> dict[str, Check]:
    sample = next(data.chunks(data.split.test[:40]))
    return {
        found.check: found for found in check_candidate(candidate, scoring, sample, 0.5, waivers)
    }


def swapped(logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The logits with the first and the second class of these rows exchanged."""
    changed = logits.copy()
    for row in rows:
        first, second = np.argsort(-logits[row])[:2]
        changed[row, [first, second]] = logits[row, [second, first]]
    return changed


def test_the_same_answers_pass(same: Candidate, scoring: Scorer, digits_data: RunData) -> None:
    """All but the race against itself, which no noise decides here; every check has run."""
    found = check(same, scoring, digits_data)
    assert set(found) == set(CHECKS)
    assert [name for name, line in found.items() if not line.passed and name != "speed"] == []


def test_a_shift_of_all_logits_is_seen_by_who_is_refused(
    same: Candidate, scoring: Scorer, digits_data: RunData
) -> None:
    """A constant taken from all logits changes no label and no probability, but the energy, and with it who is refused."""
    found = check(replace(same, logits=same.expected - 1), scoring, digits_data)
    assert [name for name, line in found.items() if not line.passed and name != "speed"] == [
        "logit_drift",
        "abstained",
    ]


def test_an_uncalibrated_version_has_nothing_to_hold(
    same: Candidate, scoring: Scorer, digits_data: RunData
) -> None:
    """Without a calibration in the manifest there are no checks of one."""
    plain = replace(scoring, manifest=scoring.manifest.model_copy(update={"calibration": None}))
    assert set(CHECKS) - set(check(same, plain, digits_data)) == {
        "abstained",
        "coverage_0.8",
        "coverage_0.9",
        "coverage_0.95",
        "calibration_error",
    }


def test_surely_known_images_must_not_flip(
    same: Candidate, scoring: Scorer, digits_data: RunData
) -> None:
    """Of 359 test images one that fp32 is sure of is too many; the points of top-1 that it costs are allowed."""
    (sure,) = np.argsort(
        np.sort(same.expected, axis=1)[:, -2] - np.sort(same.expected, axis=1)[:, -1]
    )[:1]
    found = check(
        replace(same, logits=swapped(same.expected, np.array([sure]))), scoring, digits_data
    )
    assert not found["flips_clear"].passed
    assert found["flips_near_margin"].passed
    assert found["top1_loss"].value == pytest.approx(100 / 359)
    assert found["top1_loss"].passed


def test_unsure_images_may_flip_but_not_many(
    same: Candidate, scoring: Scorer, digits_data: RunData
) -> None:
    """With all logits near each other nothing is clear, and a twentieth of the images is more than is near the margin by chance."""
    unsure = same.expected / 100
    rows = np.arange(0, len(unsure), 20)
    found = check(
        replace(same, expected=unsure, logits=swapped(unsure, rows)), scoring, digits_data
    )
    assert found["flips_near_margin"].value == pytest.approx(len(rows) / len(unsure))
    assert not found["flips_near_margin"].passed
    assert found["flips_clear"].passed


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("top1_loss", lambda same: {"logits": swapped(same.expected, np.arange(3))}),
        ("logit_drift", lambda same: {"logits": same.expected * 1.2}),
        ("logit_drift", lambda same: {"logits": same.expected * np.nan}),
        ("abstained", lambda same: {"logits": same.expected * 0.5}),
        ("coverage_0.8", lambda same: {"logits": swapped(same.expected, np.arange(0, 359, 2))}),
        ("calibration_error", lambda same: {"logits": same.expected / 4}),
        ("golden_top1", lambda same: {"golden_logits": -same.golden_expected}),
        ("size", lambda same: {"data": same.fp32_data}),
    ],
)
def test_what_is_worse_fails(
    same: Candidate, scoring: Scorer, digits_data: RunData, name: str, change: object
) -> None:
    """Lost points, logits that drift or are no numbers, a calibration that fails, other golden answers, a file no smaller."""
    found = check(replace(same, **change(same)), scoring, digits_data)  # type: ignore[operator]
    assert not found[name].passed


def test_a_failed_check_keeps_its_waiver(
    same: Candidate, scoring: Scorer, digits_data: RunData
) -> None:
    """A passed one needs none."""
    found = check(
        replace(same, data=same.fp32_data),
        scoring,
        digits_data,
        size="a disk is cheap",
        top1_loss="not needed",
    )
    assert found["size"].waived == "a disk is cheap"
    assert found["top1_loss"].waived is None


def test_half_floats_are_not_raced_on_a_cpu(
    same: Candidate, scoring: Scorer, digits_data: RunData
) -> None:
    """What a CPU takes for fp16 says nothing of a GPU."""
    assert "speed" not in check(replace(same, precision="fp16"), scoring, digits_data)


def test_points_are_of_a_hundred() -> None:
    """One of four images lost is 25 points; one gained is -25."""
    right = np.eye(4, dtype=np.float32)
    wrong = right.copy()
    wrong[0] = [0, 1, 0, 0]
    assert lost_points(wrong, right, np.arange(4)) == 25
    assert lost_points(right, wrong, np.arange(4)) == -25


def test_tolerance_is_of_what_the_conversion_moved_and_never_nothing() -> None:
    """INT8 differs elsewhere in rounding alone, half floats in the order of sums; without drift there is still fp32's tolerance."""
    assert tolerance_of("int8", [0.1, 0.25]) == 0.25
    assert tolerance_of("fp16", [0.1, 0.25]) == tolerance_of("bf16", [0.25]) == 0.5
    assert tolerance_of("int8", [0.0]) == tolerance_of("fp16", []) == 1e-3
