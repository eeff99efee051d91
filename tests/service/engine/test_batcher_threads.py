"""The instance threads of the batcher: how many there are, when they wait and when they end."""

import asyncio
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from batchers import LARGEST, answered, batching, submit
from gated_model import GatedModel, read_numbers
from server_process import PATIENCE_SECONDS, REPOSITORY

from service.engine.batcher import Batcher
from service.host.thread_priority import NICENESS

pytestmark = pytest.mark.anyio


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


async def test_close_ends_the_queue_delay() -> None:
    """A waiting batch runs at once."""
    batcher = Batcher(read_numbers, LARGEST, max_queue_delay_seconds=100 * PATIENCE_SECONDS)
    futures = submit(batcher, 1)
    await asyncio.to_thread(batcher.close)
    assert await answered(futures) == [1]


async def test_instance_whose_images_another_one_took_waits_for_more() -> None:
    """Two instances that wait for the same batch to fill both run later batches."""
    with batching(read_numbers, instances=2, max_queue_delay_seconds=0.002) as batcher:
        for number in range(20):
            futures = submit(batcher, number, number)
            assert await answered(futures) == [number, number]
        assert all(thread.is_alive() for thread in batcher._threads)


async def test_instances_run_concurrently() -> None:
    """Each of three runs waits until all three have begun."""
    barrier = threading.Barrier(3)

    def run(images: np.ndarray) -> np.ndarray:
        barrier.wait(PATIENCE_SECONDS)
        return read_numbers(images)

    with batching(run, 1, instances=3) as batcher:
        assert await answered(submit(batcher, 1, 2, 3)) == [1, 2, 3]


def named(prefix: str) -> list[str]:
    """The names of the running threads that begin with `prefix`."""
    names = (thread.name for thread in threading.enumerate())
    return sorted(name for name in names if name.startswith(prefix))


def test_every_instance_is_a_thread_until_the_batcher_closes() -> None:
    """No more threads than instances, with names for a debugger."""
    with batching(read_numbers, instances=2, name="counted"):
        assert named("counted") == ["counted-1", "counted-2"]
    assert named("counted") == []


def test_threads_end_if_not_all_of_them_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is short of threads gets the others back."""
    start = threading.Thread.start

    def start_two(thread: threading.Thread) -> None:
        if thread.name == "short-3":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="new thread"):
        Batcher(read_numbers, LARGEST, instances=4, name="short")
    assert named("short") == []


def test_process_ends_with_a_batcher_that_was_not_closed() -> None:
    """Its threads wait for images that can no longer come."""
    code = "from service.engine.batcher import Batcher; Batcher(len, 1)"
    subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, timeout=PATIENCE_SECONDS, check=True
    )


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


async def test_instances_run_where_niceness_is_forbidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some sandboxes forbid setpriority."""

    def forbid(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbid)
    with batching(read_numbers) as batcher:
        assert await answered(submit(batcher, 7)) == [7]
