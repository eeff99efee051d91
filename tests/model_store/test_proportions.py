"""The interval of one accuracy, and the test between two."""

import pytest

from model_store.proportions import mcnemar, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval_has_the_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    """As tabulated by Newcombe 1998 and Brown et al. 2001."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 0.623),
        (0, 5, 0.03125),
        (10, 0, 1.0),
        (3, 9, 0.073),
        (20, 40, 0.00674),
        (9_900, 10_100, 0.0796),
    ],
)
def test_mcnemars_p_is_that_of_the_binomial_test(gained: int, lost: int, p: float) -> None:
    """One-sided: only losses lower it."""
    assert mcnemar(gained, lost) == pytest.approx(p, rel=0.01)
