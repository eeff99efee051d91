"""Checks fail on the wrong side of their threshold, and on values that are not finite."""

import math

import numpy as np
import pytest

from training.gates.checks import at_least, at_most, logit_tolerance, max_abs


@pytest.mark.parametrize(
    ("value", "passed"),
    [(0.5, True), (0.51, True), (0.49, False), (math.nan, False), (math.inf, False)],
)
def test_at_least_passes_from_the_threshold_up(value: float, *, passed: bool) -> None:
    """The threshold itself passes."""
    check = at_least("accuracy", value, 0.5)
    assert (check.passed, check.comparison) == (passed, "at_least")
    assert math.isfinite(check.value)


@pytest.mark.parametrize(
    ("value", "passed"),
    [(0.5, True), (0.49, True), (0.51, False), (math.nan, False), (-math.inf, False)],
)
def test_at_most_passes_up_to_the_threshold(value: float, *, passed: bool) -> None:
    """The threshold itself passes."""
    check = at_most("size", value, 0.5)
    assert (check.passed, check.comparison) == (passed, "at_most")
    assert math.isfinite(check.value)


def test_the_largest_difference_counts_in_both_directions() -> None:
    """A logit that is too small is as wrong as one that is too large."""
    assert max_abs(np.array([[0.1, -0.7], [0.2, 0.3]], np.float32)) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("score", "tolerance"),
    [
        (1, 1e-3),
        (-1, 1e-3),
        (10, 1e-3),
        (15, 1.5e-3),
        (100, 1e-2),
        (-100, 1e-2),
        (1e30, 1e26),
    ],
)
def test_the_tolerance_grows_with_logits_above_ten(score: float, tolerance: float) -> None:
    """Up to the largest one that a manifest may state."""
    assert logit_tolerance(np.array([[0, score]], np.float32)) == pytest.approx(tolerance)
