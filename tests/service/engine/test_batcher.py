"""The batcher, with models that are functions."""

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

from service.engine.batcher import INSTANCE_NICENESS, MIN_QUEUE_TO_CLEAN, Batcher, ImageResult
from service.engine.priority import BULK, INTERACTIVE
from service.errors import DeadlineExceededError, InferenceError

pytestmark = pytest.mark.anyio
LARGEST = 4


@contextmanager
def batching(run: Any, max_batch_size: int = LARGEST, **options: Any) -> Iterator[Batcher]:
    """A batcher that is closed at the end, with its model's gate open."""
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


async def test_lone_image_is_run_at_once_and_told_what_its_batch_was() -> None:
    """An image that comes while an instance is idle is a batch of its own, and its answer says so."""
    with batching(read_numbers) as batcher:
        (answer,) = await asyncio.gather(*submit(batcher, 7))
    assert answer.row.tolist() == [7]
    assert answer.batch_size == 1
    assert answer.queue_seconds >= 0
    assert answer.inference_seconds >= 0


async def test_next_batch_grows_while_an_instance_is_busy() -> None:
    """What arrives during a run is taken whole by the next run, up to max_batch_size, and in order."""
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
def test_batches_are_never_larger_than_allowed(waiting: int, largest: int, instances: int) -> None:
    """However many images wait and however many instances take them, no batch passes max_batch_size and no image is lost."""

    async def check() -> None:
        model = GatedModel(read_numbers)
        with batching(model, largest, instances=instances) as batcher:
            futures = submit(batcher, *range(waiting))
            model.gate.set()
            assert await answered(futures) == list(range(waiting))
        assert all(1 <= size <= largest for size in model.sizes)
        assert sum(model.sizes) == waiting

    asyncio.run(check())


async def test_failing_batch_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A run that raises gives its own images an InferenceError without its reason, and the next batch is answered."""
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
    """A model that does not give one row an image fails the batch: no image ever gets another's row."""
    model = GatedModel(lambda images: rows if len(images) == 2 else read_numbers(images))
    with batching(model) as batcher, caplog.at_level(logging.CRITICAL, "service.engine.batcher"):
        first = submit(batcher, 0)
        await model.begun()
        pair = submit(batcher, 1, 2)
        model.gate.set()
        outcomes = await asyncio.gather(*pair, return_exceptions=True)
        assert await answered(first) == [0]
    assert [type(outcome) for outcome in outcomes] == [InferenceError, InferenceError]


async def test_images_of_different_shapes_fail_as_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    """Images that do not stack are an InferenceError, and the thread lives on."""
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


async def test_cancelled_images_are_dropped_when_the_batch_forms() -> None:
    """An image whose caller has left is never run, and its place goes to no one else's disadvantage."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher:
        first = submit(batcher, 0)
        await model.begun()
        left, stayed = submit(batcher, 1), submit(batcher, 2)
        left[0].cancel()
        model.gate.set()
        assert await answered(first + stayed) == [0, 2]
    assert read_numbers(np.concatenate(model.batches)).ravel().tolist() == [0, 2]


async def test_batch_of_cancelled_images_alone_is_not_run() -> None:
    """When every waiting caller has left there is no run at all, and the batcher still answers."""
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


async def test_late_images_are_refused_and_never_run() -> None:
    """An image whose deadline passed in the queue ends in a DeadlineExceededError, and the rest of its batch is answered."""
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
    """Closing ends the threads only after every image that was accepted has its answer."""
    model = GatedModel(read_numbers)
    batcher = Batcher(model, LARGEST)
    futures = submit(batcher, *range(10))
    closing = asyncio.create_task(asyncio.to_thread(batcher.close))
    model.gate.set()
    assert await answered(futures) == list(range(10))
    await closing
    assert not any(thread.is_alive() for thread in batcher._threads)


async def test_submit_after_close_raises_and_a_second_close_does_nothing() -> None:
    """A closed batcher says so at once: an image can not wait for ever."""
    batcher = Batcher(read_numbers, LARGEST)
    batcher.close()
    batcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        submit(batcher, 1)


def test_event_loop_that_ended_first_is_no_error() -> None:
    """A run whose event loop is gone has no one to answer; its thread lives on and ends with close."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher:

        async def leave() -> None:
            submit(batcher, 1)
            await model.begun()

        asyncio.run(leave())
        model.gate.set()

        async def come_later() -> list[int]:
            return await answered(submit(batcher, 2))

        assert asyncio.run(come_later()) == [2]


async def test_queue_delay_waits_for_company_and_stops_when_full() -> None:
    """With max_queue_delay a batch waits for others and runs as soon as it is full: here the delay alone would never end."""
    model = GatedModel(read_numbers)
    model.gate.set()
    with batching(model, max_queue_delay_seconds=100 * PATIENCE_SECONDS) as batcher:
        futures = []
        for number in range(2 * LARGEST):
            futures += submit(batcher, number)
            await asyncio.sleep(0)
        assert await answered(futures) == list(range(2 * LARGEST))
    assert model.sizes == [LARGEST, LARGEST]


async def test_queue_delay_ends_without_company() -> None:
    """A batch that nobody joins runs when its first image has waited max_queue_delay."""
    with batching(read_numbers, max_queue_delay_seconds=0.01) as batcher:
        (answer,) = await asyncio.gather(*submit(batcher, 3))
    assert answer.batch_size == 1
    assert answer.queue_seconds >= 0.01


async def test_close_does_not_wait_for_company() -> None:
    """Closing runs a batch that waits for company at once."""
    batcher = Batcher(read_numbers, LARGEST, max_queue_delay_seconds=100 * PATIENCE_SECONDS)
    futures = submit(batcher, 1)
    await asyncio.to_thread(batcher.close)
    assert await answered(futures) == [1]


async def test_instances_run_concurrently() -> None:
    """Three instances run three batches at the same time: each run waits until all three are in."""
    barrier = threading.Barrier(3)

    def run(images: np.ndarray) -> np.ndarray:
        barrier.wait(PATIENCE_SECONDS)
        return read_numbers(images)

    with batching(run, 1, instances=3) as batcher:
        assert await answered(submit(batcher, 1, 2, 3)) == [1, 2, 3]


@pytest.mark.parametrize("fails", [False, True])
async def test_bulk_that_runs_is_known_until_the_run_ends(fails: bool) -> None:
    """Also where the run fails; a run without bulk is nothing to know."""

    began, may_end = threading.Semaphore(0), threading.Semaphore(0)

    def run(images: np.ndarray) -> np.ndarray:
        began.release()
        assert may_end.acquire(timeout=PATIENCE_SECONDS)
        if fails and len(images) > 1:
            raise RuntimeError("a defect")
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


async def test_bulk_is_run_after_interactive_and_fills_its_batches() -> None:
    """What came first does not count between the two, only within each."""
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
async def test_instances_give_way_to_the_event_loop() -> None:
    """Their threads alone are nicer: the loop must never wait for a core that they hold."""
    found: list[int] = []

    def run(images: np.ndarray) -> np.ndarray:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return read_numbers(images)

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with batching(run) as batcher:
        await answered(submit(batcher, 1))
    assert found == [max(before, INSTANCE_NICENESS)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


async def test_images_that_never_come_to_their_turn_are_let_go_once_their_callers_left() -> None:
    """Bulk behind interactive images without an end: memory does not grow by what has timed out."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher:
        held = submit(batcher, *range(3 * LARGEST))
        await model.begun()
        stays = batcher.submit(numbered(7), time.monotonic() + PATIENCE_SECONDS, BULK)
        for _ in range(5 * MIN_QUEUE_TO_CLEAN):
            batcher.submit(numbered(8), time.monotonic() + PATIENCE_SECONDS, BULK).cancel()
        assert batcher.waiting_bulk <= MIN_QUEUE_TO_CLEAN + 1
        model.gate.set()
        assert await answered([*held, stays]) == [*range(3 * LARGEST), 7]


async def test_sandbox_that_forbids_niceness_stops_no_instance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To give way is a kindness; to answer is not."""

    def forbid(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbid)
    with batching(read_numbers) as batcher:
        assert await answered(submit(batcher, 7)) == [7]
