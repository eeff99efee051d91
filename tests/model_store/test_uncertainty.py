"""Energy and prediction sets, as training measures them and the service answers with them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model_store.uncertainty import energy, margins, set_sizes

LOGITS = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(2, 20)),
    elements=st.floats(-50, 50, width=32),
)


@given(LOGITS)
def test_energy_is_minus_the_log_of_the_sum_of_exponentials(logits: np.ndarray) -> None:
    """One number an image, for logits of any size that float64 can hold plainly."""
    expected = -np.log(np.exp(logits.astype(np.float64)).sum(axis=1))
    assert energy(logits).dtype == np.float32
    np.testing.assert_allclose(energy(logits), expected, rtol=1e-5, atol=1e-5)


def test_energy_of_large_logits_does_not_overflow() -> None:
    """The greatest is taken out before the exponential."""
    assert energy(np.array([[1000, 0], [-1000, -1000]], np.float32)).tolist() == pytest.approx(
        [-1000, 1000 - np.log(2)]
    )


def test_energy_rises_where_no_class_is_seen() -> None:
    """An image that excites one class has a lower energy than one that excites none."""
    known, unknown = energy(np.array([[9, 0, 0], [1, 1, 1]], np.float32))
    assert known < unknown


def test_a_set_holds_what_reaches_the_threshold_and_never_nothing() -> None:
    """A set is never empty: it holds at least the most probable label."""
    probabilities = np.array([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1], [0.34, 0.33, 0.33]], np.float32)
    thresholds = np.array([0.25, 0.6, 0.0], np.float32)
    assert set_sizes(probabilities, thresholds).tolist() == [[3, 1, 3], [1, 1, 3], [3, 1, 3]]
    assert set_sizes(probabilities, thresholds[:0]).tolist() == [[], [], []]


def test_the_margin_is_between_the_first_and_the_second() -> None:
    """Wherever these stand; two that are equal have none."""
    np.testing.assert_allclose(
        margins(np.array([[0.1, 0.2, 0.7], [0.4, 0.2, 0.4]], np.float32)), [0.5, 0], atol=1e-6
    )
