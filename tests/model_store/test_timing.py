"""Timing in turn: what is run, how often, and what comes of it."""

import itertools

import numpy as np
import pytest

from model_store.manifest import Input
from model_store.timing import speedup, time_alternately

SHAPE = Input(height=4, width=5)


def test_all_are_run_in_turn_on_the_same_images() -> None:
    """Each round runs every variant with a batch of 1 and of 8."""
    seen: list[tuple[str, np.ndarray]] = []
    runs = {name: lambda images, name=name: seen.append((name, images)) for name in ("a", "b")}
    seconds = time_alternately(runs, SHAPE, rounds=3)
    assert [(name, len(images)) for name, images in seen] == [
        ("a", 1),
        ("a", 8),
        ("b", 1),
        ("b", 8),
    ] * 3
    assert all(images.shape[1:] == (4, 5, 3) and images.dtype == np.uint8 for _, images in seen)
    assert {name: taken.shape for name, taken in seconds.items()} == {"a": (3, 2), "b": (3, 2)}


def test_a_spent_budget_ends_it_after_the_least_rounds() -> None:
    """A slow model is not run as often as asked, but often enough to compare."""
    ticks = itertools.count()
    seconds = time_alternately(
        {"a": lambda _: None},
        SHAPE,
        rounds=50,
        budget_seconds=0,
        min_rounds=2,
        clock=lambda: float(next(ticks)),
    )
    assert seconds["a"].tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_speed_up_is_the_geometric_mean_of_the_best_of_each_batch() -> None:
    """Four times for one image and once for eight is twice."""
    assert speedup(np.array([[9.0, 8.0], [4.0, 9.0]]), np.array([[1.0, 8.0]])) == pytest.approx(2.0)
