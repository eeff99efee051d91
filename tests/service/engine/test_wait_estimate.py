"""What is predicted of a wait, with a real batcher whose runs a test holds."""

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

SECONDS = {1: 10_000.0, 4: 40_000.0}  # of which what passes in a test is nothing
EXACTLY = 100.0


@asynccontextmanager
async def holding(
    *priorities: Priority, instances: int = 1
) -> AsyncIterator[tuple[WaitEstimate, Batcher]]:
    """One of the instances has begun with these, four or none."""
    model = GatedModel(read_numbers)
    batcher = Batcher(model, 4, instances, PATIENCE_SECONDS)  # so that they are one batch
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
async def test_interactive_waits_for_the_bulk_that_runs(
    running: list[Priority], instances: int, ahead: int, expected: float
) -> None:
    """Where no instance is free first; of a mixed run the interactive images count once, as those ahead."""
    async with holding(*running, instances=instances) as (wait, _):
        assert wait.seconds(ahead, 1, INTERACTIVE) == pytest.approx(expected, abs=EXACTLY)


@pytest.mark.anyio
async def test_what_has_run_is_waited_for_no_more() -> None:
    """A run that is nearly over is nearly no wait, and one that takes longer than it should is none."""
    async with holding(*[BULK] * 4) as (wait, batcher):
        (run,) = batcher.bulk_runs.values()
        for passed, left in ((30_000, 10_000), (50_000, 0)):
            run.began = time.monotonic() - passed
            assert wait.seconds(0, 1, INTERACTIVE) == pytest.approx(left + 10_000, abs=EXACTLY)


@pytest.mark.anyio
async def test_bulk_that_waits_fills_the_batches_of_interactive() -> None:
    """It takes no place before them, but makes their runs as long as full ones; bulk counts all before it as ahead already."""
    async with holding(*[INTERACTIVE] * 4) as (wait, batcher):
        futures = [
            batcher.submit(numbered(0), time.monotonic() + PATIENCE_SECONDS, BULK) for _ in range(2)
        ]
        assert wait.seconds(0, 1, INTERACTIVE) == pytest.approx(30_000, abs=EXACTLY)
        assert wait.seconds(0, 4, INTERACTIVE) == pytest.approx(40_000, abs=EXACTLY)
        assert wait.seconds(6, 1, BULK) == pytest.approx(70_000, abs=EXACTLY)
        for future in futures:
            future.cancel()


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
