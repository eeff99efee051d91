"""What is predicted of a wait, with a real batcher whose runs a test holds."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from gated_model import GatedModel, numbered, read_numbers
from server_process import PATIENCE_SECONDS

from service.engine.batcher import BULK, INTERACTIVE, Batcher, Priority
from service.engine.latency_profile import LatencyProfile
from service.engine.wait_estimate import WaitEstimate

pytestmark = pytest.mark.anyio
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


async def test_what_has_run_is_waited_for_no_more() -> None:
    """A run that is nearly over is nearly no wait, and one that takes longer than it should is none."""
    async with holding(*[BULK] * 4) as (wait, batcher):
        (run,) = batcher.bulk_runs.values()
        for passed, left in ((30_000, 10_000), (50_000, 0)):
            run.began = time.monotonic() - passed
            assert wait.seconds(0, 1, INTERACTIVE) == pytest.approx(left + 10_000, abs=EXACTLY)


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
