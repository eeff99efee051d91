"""The profile: between sizes, beyond them, and corrected by what runs."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from service.engine.latency_profile import LatencyProfile


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


@pytest.mark.parametrize(
    ("ahead", "images", "seconds"), [(0, 1, 1.0), (3, 1, 2.0), (4, 4, 4.0), (8, 1, 5.0)]
)
def test_waits_are_whole_batches_and_a_rest(ahead: int, images: int, seconds: float) -> None:
    """Two instances, batches of two: four images take one run of two each."""
    assert_allclose(LatencyProfile({1: 1.0, 2: 2.0}).wait_seconds(ahead, images, 2, 2), seconds)


@pytest.mark.parametrize(("filling", "seconds"), [(0, 4.0), (1, 4.0), (2, 5.0), (99, 5.0)])
def test_others_fill_up_the_last_run_and_no_more(filling: int, seconds: float) -> None:
    """Of five images one is in a last run, of which the other places are taken, too."""
    profile = LatencyProfile({1: 1.0, 2: 2.0, 3: 3.0})
    assert_allclose(profile.wait_seconds(3, 2, 2, 2, filling), seconds - 1.0)
