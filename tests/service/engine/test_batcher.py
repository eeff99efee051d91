"""The batcher, with functions as models."""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from gated_model import GatedModel, numbered, read_numbers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_process import PATIENCE_SECONDS

from service.engine.batcher import MIN_QUEUE_TO_CLEAN, Batcher, ImageResult
from service.engine.priority import BULK, INTERACTIVE
from service.errors import DeadlineExceededError, InferenceError
from service.host.thread_priority import NICENESS

pytestmark = pytest.mark.anyio
LARGEST = 4


@contextmanager
def batching(run: Any, max_batch_size: int = LARGEST, **options: Any) -> Iterator[Batcher]:
    """A batcher that is closed at the end; the gate of its model is opened before."""
    batcher = Batcher(run, max_batch_size, **options)
    try:
        yield batcher
    finally:
        if isinstance(run, GatedModel):
            run.gate.set()
        batcher.close()


def submit(batcher: Batcher, *numbers: int) -> list[asyncio.Future[ImageResult]]:
    return [
        batcher.submit(numbered(number), time.monotonic() + PATIENCE_SECONDS) for number in numbers
    ]


async def answered(futures: list[asyncio.Future[ImageResult]]) -> list[int]:
    return [int(answer.row[0]) for answer in await asyncio.gather(*futures)]


async def test_lone_image_is_a_batch_of_its_own() -> None:
    """An idle instance takes a single image at once."""
    with batching(read_numbers) as batcher:
        (answer,) = await asyncio.gather(*submit(batcher, 7))
    assert answer.row.tolist() == [7]
    assert answer.batch_size == 1
    assert answer.queue_seconds >= 0
    assert answer.inference_seconds >= 0


async def test_next_batch_grows_while_an_instance_is_busy() -> None:
    """Images that arrive during a run form the next batch, up to max_batch_size, in order."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher:
        first = submit(batcher, 0)
        await model.begun()
        rest = submit(batcher, *range(1, 7))
        model.gate.set()
        assert await answered(first + rest) == list(range(7))
    assert model.sizes == [1, LARGEST, 2]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(waiting=st.integers(0, 60), largest=st.integers(1, 12), instances=st.integers(1, 3))
def test_batches_are_never_larger_than_max_batch_size(
    waiting: int, largest: int, instances: int
) -> None:
    """For any number of images and instances, and no image is lost."""

    async def check() -> None:
        model = GatedModel(read_numbers)
        with batching(model, largest, instances=instances) as batcher:
            futures = submit(batcher, *range(waiting))
            model.gate.set()
            assert await answered(futures) == list(range(waiting))
        assert all(1 <= size <= largest for size in model.sizes)
        assert sum(model.sizes) == waiting

    asyncio.run(check())


async def test_failing_batch_affects_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Its images get an InferenceError without the reason; the next batch is answered."""
    model = GatedModel(lambda images: 1 / 0 if images[0, 0, 0, 0] == 0 else read_numbers(images))
    with batching(model) as batcher, caplog.at_level(logging.CRITICAL, "service.engine.batcher"):
        failing = submit(batcher, 0)
        await model.begun()
        good = submit(batcher, 1, 2)
        model.gate.set()
        (error,) = await asyncio.gather(*failing, return_exceptions=True)
        assert await answered(good) == [1, 2]
    assert isinstance(error, InferenceError)
    assert "division" not in str(error)


@pytest.mark.parametrize(
    "rows",
    [np.zeros((1, 3), np.float32), np.zeros((3, 3), np.float32), None],
    ids=["fewer", "more", "none"],
)
async def test_wrong_number_of_rows_is_an_inference_error(
    rows: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No image ever gets another image's row."""
    model = GatedModel(lambda images: rows if len(images) == 2 else read_numbers(images))
    with batching(model) as batcher, caplog.at_level(logging.CRITICAL, "service.engine.batcher"):
        first = submit(batcher, 0)
        await model.begun()
        pair = submit(batcher, 1, 2)
        model.gate.set()
        outcomes = await asyncio.gather(*pair, return_exceptions=True)
        assert await answered(first) == [0]
    assert [type(outcome) for outcome in outcomes] == [InferenceError, InferenceError]


async def test_images_of_different_shapes_fail_together(caplog: pytest.LogCaptureFixture) -> None:
    """They get an InferenceError, and the instance continues."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher, caplog.at_level(logging.CRITICAL, "service.engine.batcher"):
        first = submit(batcher, 0)
        await model.begun()
        deadline = time.monotonic() + PATIENCE_SECONDS
        uneven = [batcher.submit(np.zeros((side, side, 3), np.uint8), deadline) for side in (1, 2)]
        model.gate.set()
        outcomes = await asyncio.gather(*uneven, return_exceptions=True)
        assert await answered(first + submit(batcher, 5)) == [0, 5]
    assert [type(outcome) for outcome in outcomes] == [InferenceError, InferenceError]


async def test_cancelled_images_are_not_run() -> None:
    """Other images of the batch are answered."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher:
        first = submit(batcher, 0)
        await model.begun()
        cancelled, kept = submit(batcher, 1), submit(batcher, 2)
        cancelled[0].cancel()
        model.gate.set()
        assert await answered(first + kept) == [0, 2]
    assert read_numbers(np.concatenate(model.batches)).ravel().tolist() == [0, 2]


async def test_batch_of_only_cancelled_images_is_not_run() -> None:
    """The batcher still answers later images."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher:
        first = submit(batcher, 0)
        await model.begun()
        for future in submit(batcher, *range(1, 1 + LARGEST)):
            future.cancel()
        last = submit(batcher, 9)
        model.gate.set()
        assert await answered(first + last) == [0, 9]
    assert model.sizes == [1, 1]


async def test_late_images_are_not_run() -> None:
    """They get a DeadlineExceededError; the rest of the batch is answered."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher:
        first = submit(batcher, 0)
        await model.begun()
        late = batcher.submit(numbered(1), time.monotonic())
        good = submit(batcher, 2)
        model.gate.set()
        assert await answered(first + good) == [0, 2]
        with pytest.raises(DeadlineExceededError):
            await late
    assert read_numbers(np.concatenate(model.batches)).ravel().tolist() == [0, 2]


async def test_close_answers_what_is_queued() -> None:
    """The threads end after every submitted image has its result."""
    model = GatedModel(read_numbers)
    batcher = Batcher(model, LARGEST)
    futures = submit(batcher, *range(10))
    closing = asyncio.create_task(asyncio.to_thread(batcher.close))
    model.gate.set()
    assert await answered(futures) == list(range(10))
    await closing
    assert not any(thread.is_alive() for thread in batcher._threads)


async def test_submit_after_close_raises_and_a_second_close_does_nothing() -> None:
    """No image waits forever."""
    batcher = Batcher(read_numbers, LARGEST)
    batcher.close()
    batcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        submit(batcher, 1)


def test_ended_event_loop_is_not_an_error() -> None:
    """The instance continues with images of another event loop."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher:

        async def submit_and_end() -> None:
            submit(batcher, 1)
            await model.begun()

        asyncio.run(submit_and_end())
        model.gate.set()

        async def submit_later() -> list[int]:
            return await answered(submit(batcher, 2))

        assert asyncio.run(submit_later()) == [2]


async def test_queue_delay_ends_when_the_batch_is_full() -> None:
    """The delay alone would never end in this test."""
    model = GatedModel(read_numbers)
    model.gate.set()
    with batching(model, max_queue_delay_seconds=100 * PATIENCE_SECONDS) as batcher:
        futures = []
        for number in range(2 * LARGEST):
            futures += submit(batcher, number)
            await asyncio.sleep(0)
        assert await answered(futures) == list(range(2 * LARGEST))
    assert model.sizes == [LARGEST, LARGEST]


async def test_queue_delay_ends_without_more_images() -> None:
    """The batch runs once its first image has waited max_queue_delay."""
    with batching(read_numbers, max_queue_delay_seconds=0.01) as batcher:
        (answer,) = await asyncio.gather(*submit(batcher, 3))
    assert answer.batch_size == 1
    assert answer.queue_seconds >= 0.01


async def test_close_ends_the_queue_delay() -> None:
    """A waiting batch runs at once."""
    batcher = Batcher(read_numbers, LARGEST, max_queue_delay_seconds=100 * PATIENCE_SECONDS)
    futures = submit(batcher, 1)
    await asyncio.to_thread(batcher.close)
    assert await answered(futures) == [1]


async def test_instances_run_concurrently() -> None:
    """Each of three runs waits until all three have begun."""
    barrier = threading.Barrier(3)

    def run(images: np.ndarray) -> np.ndarray:
        barrier.wait(PATIENCE_SECONDS)
        return read_numbers(images)

    with batching(run, 1, instances=3) as batcher:
        assert await answered(submit(batcher, 1, 2, 3)) == [1, 2, 3]


@pytest.mark.parametrize("fails", [False, True])
async def test_running_bulk_is_tracked_until_the_run_ends(fails: bool) -> None:
    """Runs without bulk are not tracked, and a failed run ends too."""
    began, may_end = threading.Semaphore(0), threading.Semaphore(0)

    def run(images: np.ndarray) -> np.ndarray:
        began.release()
        assert may_end.acquire(timeout=PATIENCE_SECONDS)
        if fails and len(images) > 1:
            raise RuntimeError("failed")
        return read_numbers(images)

    with batching(run, 3) as batcher:
        deadline = time.monotonic() + PATIENCE_SECONDS
        futures = submit(batcher, 0)
        assert await asyncio.to_thread(began.acquire, timeout=PATIENCE_SECONDS)
        assert (batcher.bulk_runs, batcher.waiting_bulk) == ({}, 0)
        for priority in (BULK, INTERACTIVE, BULK, BULK):
            futures.append(batcher.submit(numbered(1), deadline, priority))
        assert (batcher.waiting, batcher.waiting_bulk) == (4, 3)
        may_end.release()
        assert await asyncio.to_thread(began.acquire, timeout=PATIENCE_SECONDS)
        ((run_under_way),) = batcher.bulk_runs.values()
        assert (run_under_way.images, run_under_way.bulk, batcher.waiting_bulk) == (3, 2, 1)
        may_end.release(2)
        await asyncio.gather(*futures, return_exceptions=True)
        assert batcher.bulk_runs == {}


async def test_bulk_runs_after_interactive_and_fills_its_batches() -> None:
    """The order of arrival counts only within a priority."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher:
        first = submit(batcher, 0)
        await model.begun()
        deadline = time.monotonic() + PATIENCE_SECONDS
        bulk = [batcher.submit(numbered(number), deadline, BULK) for number in range(10, 16)]
        interactive = submit(batcher, 1, 2)
        assert batcher.waiting == 8
        model.gate.set()
        assert await answered(first + interactive + bulk) == [0, 1, 2, *range(10, 16)]
    assert [read_numbers(batch).ravel().tolist() for batch in model.batches] == [
        [0],
        [1, 2, 10, 11],
        [12, 13, 14, 15],
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere niceness belongs to the process")
async def test_instance_threads_have_a_lower_priority_than_the_event_loop() -> None:
    """Only the niceness of the instance threads changes."""
    niceness: list[int] = []

    def run(images: np.ndarray) -> np.ndarray:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return read_numbers(images)

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with batching(run) as batcher:
        await answered(submit(batcher, 1))
    assert niceness == [max(before, NICENESS)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


async def test_cancelled_images_are_removed_from_a_long_queue() -> None:
    """Bulk that is never taken does not grow memory after its callers left."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher:
        held = submit(batcher, *range(3 * LARGEST))
        await model.begun()
        kept = batcher.submit(numbered(7), time.monotonic() + PATIENCE_SECONDS, BULK)
        for _ in range(5 * MIN_QUEUE_TO_CLEAN):
            batcher.submit(numbered(8), time.monotonic() + PATIENCE_SECONDS, BULK).cancel()
        assert batcher.waiting_bulk <= MIN_QUEUE_TO_CLEAN + 1
        model.gate.set()
        assert await answered([*held, kept]) == [*range(3 * LARGEST), 7]


async def test_instances_run_where_niceness_is_forbidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some sandboxes forbid setpriority."""

    def forbid(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbid)
    with batching(read_numbers) as batcher:
        assert await answered(submit(batcher, 7)) == [7]
