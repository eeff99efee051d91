"""The batcher, with functions as models."""

import asyncio
import logging
import threading
import time
from typing import Any

import numpy as np
import pytest
from batchers import LARGEST, answered, batching, submit
from gated_model import GatedModel, numbered, read_numbers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_process import PATIENCE_SECONDS

from service.engine.batcher import MIN_QUEUE_TO_CLEAN
from service.engine.extras import EMBEDDING, FEATURES, NO_EXTRAS
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.errors import DeadlineExceededError, InferenceError

pytestmark = pytest.mark.anyio


async def test_lone_image_is_a_batch_of_its_own() -> None:
    """An idle instance takes a single image at once."""
    with batching(read_numbers) as batcher:
        (answer,) = await asyncio.gather(*submit(batcher, 7))
    assert answer.row.tolist() == [7]
    assert answer.batch_size == 1
    assert answer.queue_seconds >= 0
    assert answer.inference_seconds >= 0


async def test_times_of_an_image_are_those_of_its_wait_and_of_its_run() -> None:
    """An image waits from its submission to the start of its run."""
    model = GatedModel(read_numbers)
    began = time.monotonic()
    with batching(model) as batcher:
        first = submit(batcher, 0)
        await model.begun()
        running = time.monotonic()
        others = submit(batcher, 1, 2)
        submitted = time.monotonic()
        opened = time.monotonic()
        model.gate.set()
        (ran,) = await asyncio.gather(*first)
        waited, _ = await asyncio.gather(*others)
    elapsed = time.monotonic() - began
    assert opened - running <= ran.inference_seconds <= elapsed
    assert opened - submitted <= waited.queue_seconds <= elapsed
    assert 0 <= waited.inference_seconds <= elapsed - waited.queue_seconds
    assert waited.batch_size == 2


async def test_only_successful_runs_are_counted_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A batch counts once under its size, and is reported with the time that its images get."""
    reported: list[tuple[int, float]] = []
    model = GatedModel(lambda images: 1 / 0 if len(images) == 3 else read_numbers(images))
    with (
        batching(model, 3, on_run=lambda *run: reported.append(run)) as batcher,
        caplog.at_level(logging.CRITICAL, "service.engine.batcher"),
    ):
        futures = submit(batcher, 0)
        await model.begun()
        failing = submit(batcher, 1, 2, 3)
        futures += submit(batcher, 4, 5)
        model.gate.set()
        await asyncio.gather(*failing, return_exceptions=True)
        first, second, _ = await asyncio.gather(*futures)
    assert batcher.batch_sizes == {1: 1, 2: 1}
    assert reported == [(1, first.inference_seconds), (2, second.inference_seconds)]
    assert dict(batcher.batch_seconds) == dict(reported)


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


async def test_images_that_are_submitted_together_fill_batches() -> None:
    """None of them starts a run alone, and as many instances wake up as there are batches."""
    model = GatedModel(read_numbers)
    model.gate.set()
    images = [numbered(number) for number in range(2 * LARGEST)]
    with batching(model, instances=3) as batcher:
        results = await batcher.submit_all(images, time.monotonic() + PATIENCE_SECONDS)
    assert [int(result.row[0]) for result in results] == list(range(2 * LARGEST))
    assert model.sizes == [LARGEST, LARGEST]


@pytest.mark.parametrize(("ahead", "copied"), [(0, False), (1, True)])
async def test_group_that_is_a_batch_of_its_own_is_not_copied(ahead: int, *, copied: bool) -> None:
    """With an image ahead, the batch has that one and all but the last one of the group."""
    batches: list[np.ndarray] = []
    model = GatedModel(lambda images: batches.append(images) or read_numbers(images))
    images = np.stack([numbered(number) for number in range(LARGEST)])
    with batching(model) as batcher:
        running = submit(batcher, 99)
        await model.begun()
        others = submit(batcher, *range(100, 100 + ahead))
        group = batcher.submit_all(images, time.monotonic() + PATIENCE_SECONDS)
        model.gate.set()
        results = await group
        await asyncio.gather(*running, *others)
    assert [int(result.row[0]) for result in results] == list(range(LARGEST))
    assert len(batches[1]) == LARGEST
    assert np.shares_memory(batches[1], images) != copied


async def test_each_image_of_a_group_has_its_own_result(caplog: pytest.LogCaptureFixture) -> None:
    """Errors are among the results, because another batch of the group may have succeeded."""
    model = GatedModel(lambda images: 1 / 0 if images[0, 0, 0, 0] == 0 else read_numbers(images))
    model.gate.set()
    images = [numbered(number) for number in range(LARGEST + 2)]
    with batching(model) as batcher, caplog.at_level(logging.CRITICAL, "service.engine.batcher"):
        results = await batcher.submit_all(images, time.monotonic() + PATIENCE_SECONDS)
    assert [type(result) for result in results[:LARGEST]] == [InferenceError] * LARGEST
    assert [int(result.row[0]) for result in results[LARGEST:]] == [LARGEST, LARGEST + 1]


async def test_cancelled_group_is_not_run() -> None:
    """What runs already is run to its end, and its results are dropped."""
    model = GatedModel(read_numbers)
    with batching(model) as batcher:
        group = batcher.submit_all(
            [numbered(number) for number in range(3 * LARGEST)],
            time.monotonic() + PATIENCE_SECONDS,
        )
        await model.begun()
        group.cancel()
        (last,) = submit(batcher, 7)
        model.gate.set()
        assert (await last).row.tolist() == [7]
    assert model.sizes == [LARGEST, 1]


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


@pytest.mark.parametrize("older", [INTERACTIVE, BULK])
async def test_queue_delay_counts_from_the_oldest_image(older: Priority) -> None:
    """Whichever its priority; the newer images alone would wait for longer than this test."""
    delay = 100 * PATIENCE_SECONDS
    model = GatedModel(read_numbers)
    with batching(model, 5, max_queue_delay_seconds=delay) as batcher:
        first = submit(batcher, *range(5))
        await model.begun()
        deadline = time.monotonic() + PATIENCE_SECONDS
        waiting = [
            batcher.submit(numbered(number), deadline, priority)
            for number, priority in ((5, INTERACTIVE), (6, INTERACTIVE), (7, BULK), (8, BULK))
        ]
        (batcher._queue if older == INTERACTIVE else batcher._bulk_queue)[0].enqueued -= delay
        model.gate.set()
        assert await answered(first + waiting) == list(range(9))
    assert model.sizes == [5, 4]


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


async def test_a_batch_runs_with_the_extras_that_its_images_ask_for() -> None:
    """Images that ask share batches with those that do not."""
    kinds: list[int] = []
    model = GatedModel(lambda images: kinds.append(NO_EXTRAS) or read_numbers(images))

    def run_with(images: np.ndarray, extras: int) -> np.ndarray:
        kinds.append(extras)
        return read_numbers(images)

    deadline = time.monotonic() + PATIENCE_SECONDS
    with batching(model, run_with=run_with) as batcher:
        futures = submit(batcher, 0)
        await model.begun()
        futures += submit(batcher, 1)
        futures.append(batcher.submit(numbered(2), deadline, extras=EMBEDDING))
        futures.append(batcher.submit(numbered(4), deadline, extras=FEATURES))
        model.gate.set()
        assert await answered(futures) == [0, 1, 2, 4]
        assert await answered(submit(batcher, 3)) == [3]
    assert kinds == [NO_EXTRAS, EMBEDDING | FEATURES, NO_EXTRAS]
