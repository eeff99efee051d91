"""The profile: between sizes, beyond them, and corrected by what runs."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from model_store.manifest import Input
from service.latency_profile import LatencyProfile, measure


@pytest.mark.parametrize(("images", "seconds"), [(1, 1.0), (2, 2.0), (3, 2.5), (4, 3.0), (8, 6.0)])
def test_sizes_in_between_and_beyond(images: int, seconds: float) -> None:
    """Linear between what was measured, and in proportion beyond it."""
    assert_allclose(LatencyProfile({1: 1.0, 2: 2.0, 4: 3.0}).seconds(images), seconds)


@pytest.mark.parametrize("factor", [3.0, 0.4])
def test_profile_follows_what_really_runs(factor: float) -> None:
    """Beside other load, or on a faster CPU, all sizes are right again after some runs, also those that were not run."""
    truth = {1: 1.0, 8: 4.0, 32: 10.0}
    profile = LatencyProfile(truth)
    for _ in range(120):
        for size in (1, 8):
            profile.observe(size, factor * truth[size])
    for size in (1, 8):
        assert_allclose(profile.seconds(size), factor * truth[size], rtol=0.1)
    assert abs(np.log(profile.seconds(32) / (factor * truth[32]))) < abs(np.log(factor))


def test_one_slow_run_does_not_change_much() -> None:
    """A hiccup is no trend."""
    profile = LatencyProfile({1: 1.0})
    profile.observe(1, 2.0)
    assert profile.seconds(1) < 1.1


@pytest.mark.parametrize(("ahead", "images", "seconds"), [(0, 1, 1.0), (3, 1, 2.0), (4, 4, 4.0), (8, 1, 5.0)])
def test_waits_are_whole_batches_and_a_rest(ahead: int, images: int, seconds: float) -> None:
    """Two instances, batches of two: four images take one run of two each."""
    assert_allclose(LatencyProfile({1: 1.0, 2: 2.0}).wait_seconds(ahead, images, 2, 2), seconds)


def run_of(sizes: list[int]) -> object:
    def run(images: np.ndarray) -> None:
        sizes.append(len(images))

    return run


def test_sizes_are_measured_up_to_the_largest() -> None:
    """Doubling, and the largest itself; each is run twice where that is quick."""
    sizes: list[int] = []
    found = measure(run_of(sizes), Input(height=2, width=2), 12)  # type: ignore[arg-type]
    assert list(found) == [1, 2, 4, 8, 12]
    assert sizes == [1, 1, 2, 2, 4, 4, 8, 8, 12, 12]


def test_batches_grow_no_longer_than_a_run_may_take() -> None:
    """A size whose double would take too long is the last; one image always runs."""
    assert list(measure(run_of([]), Input(height=2, width=2), 32, longest_seconds=0.0)) == [1]  # type: ignore[arg-type]
