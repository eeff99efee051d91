"""The latency profile, and the wait predicted for a real batcher whose runs a test holds."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from gated_model import GatedModel, numbered, read_numbers
from numpy.testing import assert_allclose
from server_process import PATIENCE_SECONDS

from service.engine.batcher import Batcher
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.engine.wait_estimate import LatencyProfile, WaitEstimate

SECONDS = {1: 10_000.0, 4: 40_000.0}  # far longer than any test
TOLERANCE_SECONDS = 100.0


@asynccontextmanager
async def holding(
    *priorities: Priority, instances: int = 1
) -> AsyncIterator[tuple[WaitEstimate, Batcher]]:
    """A batcher with one running batch of these four images, or an idle one."""
    model = GatedModel(read_numbers)
    batcher = Batcher(model, 4, instances, PATIENCE_SECONDS)  # all four are one batch
    futures = [
        batcher.submit(numbered(0), time.monotonic() + PATIENCE_SECONDS, priority)
        for priority in priorities
    ]
    try:
        if priorities:
            await model.begun()
        yield WaitEstimate(LatencyProfile(SECONDS), batcher, 4, instances, 0.0), batcher
    finally:
        model.gate.set()
        await asyncio.gather(*futures)
        batcher.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("running", "instances", "ahead", "expected"),
    [
        ([], 1, 0, 10_000),
        ([BULK] * 4, 1, 0, 50_000),
        ([BULK] * 4, 2, 0, 10_000),
        ([BULK] * 4, 2, 4, 50_000),
        ([INTERACTIVE] * 4, 1, 4, 50_000),
        ([INTERACTIVE, BULK, BULK, BULK], 1, 1, 50_000),
    ],
)
async def test_interactive_waits_for_running_bulk(
    running: list[Priority], instances: int, ahead: int, expected: float
) -> None:
    """Idle instances are used first; interactive images of a mixed run count once, as `ahead`."""
    async with holding(*running, instances=instances) as (wait, _):
        assert wait.seconds(ahead, 1, INTERACTIVE) == pytest.approx(expected, abs=TOLERANCE_SECONDS)


@pytest.mark.anyio
async def test_elapsed_time_of_a_run_is_subtracted() -> None:
    """A run that takes longer than predicted adds no wait."""
    async with holding(*[BULK] * 4) as (wait, batcher):
        (run,) = batcher.bulk_runs.values()
        for elapsed, remaining in ((30_000, 10_000), (50_000, 0)):
            run.began = time.monotonic() - elapsed
            assert wait.seconds(0, 1, INTERACTIVE) == pytest.approx(
                remaining + 10_000, abs=TOLERANCE_SECONDS
            )


@pytest.mark.anyio
async def test_queued_bulk_fills_the_batches_of_interactive() -> None:
    """It is not ahead of interactive images, but makes their runs as long as full batches."""
    async with holding(*[INTERACTIVE] * 4) as (wait, batcher):
        futures = [
            batcher.submit(numbered(0), time.monotonic() + PATIENCE_SECONDS, BULK) for _ in range(2)
        ]
        assert wait.seconds(0, 1, INTERACTIVE) == pytest.approx(30_000, abs=TOLERANCE_SECONDS)
        assert wait.seconds(0, 4, INTERACTIVE) == pytest.approx(40_000, abs=TOLERANCE_SECONDS)
        assert wait.seconds(6, 1, BULK) == pytest.approx(70_000, abs=TOLERANCE_SECONDS)
        for future in futures:
            future.cancel()


@pytest.mark.parametrize(("images", "seconds"), [(1, 1.0), (2, 2.0), (3, 2.5), (4, 3.0), (8, 6.0)])
def test_sizes_between_and_beyond_the_measured_ones(images: int, seconds: float) -> None:
    """Linear between measured sizes, proportional beyond them."""
    assert_allclose(LatencyProfile({1: 1.0, 2: 2.0, 4: 3.0}).seconds(images), seconds)


@pytest.mark.parametrize("factor", [3.0, 0.4])
def test_profile_follows_the_runs(factor: float) -> None:
    """After some runs on a slower or faster machine, sizes that were not run are corrected too."""
    truth = {1: 1.0, 8: 4.0, 32: 10.0}
    profile = LatencyProfile(truth)
    for _ in range(120):
        for size in (1, 8):
            profile.observe(size, factor * truth[size])
    for size in (1, 8):
        assert_allclose(profile.seconds(size), factor * truth[size], rtol=0.1)
    assert abs(np.log(profile.seconds(32) / (factor * truth[32]))) < abs(np.log(factor))


def test_one_slow_run_changes_little() -> None:
    """An outlier of factor 2 changes the profile by less than 10 %."""
    profile = LatencyProfile({1: 1.0})
    profile.observe(1, 2.0)
    assert profile.seconds(1) < 1.1


@pytest.mark.parametrize(
    ("ahead", "images", "seconds"), [(0, 1, 1.0), (3, 1, 2.0), (4, 4, 4.0), (8, 1, 5.0)]
)
def test_wait_is_full_batches_and_a_smaller_one(ahead: int, images: int, seconds: float) -> None:
    """Two instances with batches of two run four images in one round."""
    assert_allclose(LatencyProfile({1: 1.0, 2: 2.0}).wait_seconds(ahead, images, 2, 2), seconds)


@pytest.mark.parametrize(("filling", "seconds"), [(0, 4.0), (1, 4.0), (2, 5.0), (99, 5.0)])
def test_lower_priority_fills_only_the_last_batch(filling: int, seconds: float) -> None:
    """Of five images one is in the last round, whose other places are filled."""
    profile = LatencyProfile({1: 1.0, 2: 2.0, 3: 3.0})
    assert_allclose(profile.wait_seconds(3, 2, 2, 2, filling), seconds - 1.0)
