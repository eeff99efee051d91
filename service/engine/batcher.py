"""The batcher, the one place for concurrency: one queue behind one lock, and instance threads that take from it themselves.

Work-conserving: a batch is formed when an instance can take it, and the next one grows while it computes. There is no
polling and no timer while idle. Answers go back to the event loop in one hop a batch.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from model_store.preprocessing import Pixels
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.errors import DeadlineExceededError, InferenceError, ServiceError

Rows = Sequence[Any]
"""What `run` gives: one row an image; what a row is, is between it and who submits."""

NICENESS: Final = 10
SWEEP: Final = 256
"""Images in a queue from which on those whose callers have left are looked for."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)  # as below
class ImageResult:
    """One image's row, and what its batch was."""

    row: Any
    queue_seconds: float
    inference_seconds: float
    batch_size: int


@dataclass(slots=True)  # not frozen: that would double the time to make one
class _Item:
    image: Pixels
    deadline: float
    future: asyncio.Future[ImageResult]
    enqueued: float
    bulk: bool


@dataclass(slots=True)  # as above
class BulkRun:
    """A run under way, of so many images of which so many are bulk."""

    began: float
    images: int
    bulk: int


class Batcher:
    """Every image that was submitted gets exactly one answer or one error, and a failing batch takes no other with it.

    `run` takes uint8 `[batch, height, width, 3]`, read-only, and returns one row an image; `instances` threads call it. `observe`
    is told of each run that ended well: its images and its seconds.
    """

    def __init__(
        self,
        run: Callable[[Pixels], Rows],
        max_batch_size: int,
        instances: int = 1,
        max_queue_delay_seconds: float = 0.0,
        name: str = "batcher",
        observe: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self._run = run
        self._observe = observe
        self._max_batch_size = max_batch_size
        self._max_queue_delay_seconds = max_queue_delay_seconds
        self._queue: deque[_Item] = deque()
        self._bulk: deque[_Item] = deque()
        self._lock = threading.Lock()
        self._sweep_at = {False: SWEEP, True: SWEEP}
        self._asleep: list[
            threading.Condition
        ] = []  # of the same lock, one for each thread that waits; the last is woken first
        self.batch_sizes: Counter[int] = Counter()
        self.bulk_runs: dict[int, BulkRun] = {}  # by thread; copy it to look at it
        self._closing = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True)
            for number in range(1, instances + 1)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, image: Pixels, deadline: float, priority: Priority = INTERACTIVE
    ) -> asyncio.Future[ImageResult]:
        """Queue one image from the event loop; `deadline` is on the monotonic clock. Bulk takes the places that are left.

        The future ends in an ImageResult, a DeadlineExceededError or an InferenceError; cancelling it drops the image when a
        batch forms. Raises RuntimeError on a closed batcher.
        """
        item = _Item(
            image,
            deadline,
            asyncio.get_running_loop().create_future(),
            time.monotonic(),
            priority == BULK,
        )
        with self._lock:
            if self._closing:
                raise RuntimeError(
                    "this batcher is closed: its version was unloaded while a request held it"
                )
            (queue := self._bulk if item.bulk else self._queue).append(item)
            if len(queue) > self._sweep_at[item.bulk]:
                self._sweep(queue, bulk=item.bulk)
            if self._asleep:
                self._asleep.pop().notify()
        return item.future

    @property
    def waiting(self) -> int:
        """Images that no instance has taken yet."""
        return len(self._queue) + len(self._bulk)

    @property
    def waiting_bulk(self) -> int:
        """Those of them that are bulk."""
        return len(self._bulk)

    def close(self) -> None:
        """Answer what is queued, then end the threads; blocks until they have. A second call does nothing."""
        with self._lock:
            self._closing = True
            while self._asleep:
                self._asleep.pop().notify()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        _give_way()
        own = threading.Condition(self._lock)
        while batch := self._take(own):
            began = time.monotonic()
            if bulk := sum(item.bulk for item in batch):
                self.bulk_runs[threading.get_ident()] = BulkRun(began, len(batch), bulk)
            outcome: Rows | ServiceError
            try:
                outcome = self._run(_stack([item.image for item in batch]))
                if len(outcome) != len(batch):
                    raise RuntimeError(f"{len(batch)} images gave {len(outcome)} rows")
            except Exception:
                logger.exception("a batch of %d images failed", len(batch))
                outcome = InferenceError(
                    "the model failed on this batch; the server's log has the reason"
                )
            ended = time.monotonic()
            self.bulk_runs.pop(threading.get_ident(), None)
            if not isinstance(outcome, ServiceError):
                self._observe(len(batch), ended - began)
                with self._lock:
                    self.batch_sizes[len(batch)] += 1
            _settle(batch, outcome, began, ended)

    def _take(self, own: threading.Condition) -> list[_Item]:
        """The next batch, never empty but when the batcher is closed. Images whose caller left or that are late are dropped."""
        while True:
            batch: list[_Item] = []
            late: list[_Item] = []
            with self._lock:
                while not self.waiting and not self._closing:
                    self._sleep(own)
                if not self.waiting:
                    return []
                self._wait_for_company(own)
                now = time.monotonic()
                while self.waiting and len(batch) < self._max_batch_size:
                    item = self._pop()
                    if not item.future.done():
                        (late if item.deadline < now else batch).append(item)
            if late:
                _settle(
                    late,
                    DeadlineExceededError(
                        "the deadline passed while the image waited for its batch"
                    ),
                    now,
                    now,
                )
            if batch:
                return batch

    def _sweep(self, queue: deque[_Item], *, bulk: bool) -> None:
        """Let go of the images whose callers have left: bulk, or all where every instance hangs, may never come to its turn."""
        waiting = [item for item in queue if not item.future.done()]
        queue.clear()
        queue.extend(waiting)
        self._sweep_at[bulk] = max(SWEEP, 2 * len(waiting))

    def _pop(self) -> _Item:
        return (self._queue or self._bulk).popleft()

    def _sleep(self, own: threading.Condition, seconds: float | None = None) -> None:
        """Wait until something changes. Who slept last is woken first: one client alone is then served by one warm thread."""
        self._asleep.append(own)
        if not own.wait(seconds):
            with suppress(ValueError):  # it was woken just after
                self._asleep.remove(own)

    def _wait_for_company(self, own: threading.Condition) -> None:
        """Hold a batch that is not full until its first image has waited max_queue_delay_seconds; by default not at all."""
        while (
            self._max_queue_delay_seconds
            and 0 < self.waiting < self._max_batch_size
            and not self._closing
        ):
            first = min(queue[0].enqueued for queue in (self._queue, self._bulk) if queue)
            remaining = first + self._max_queue_delay_seconds - time.monotonic()
            if remaining <= 0:
                return
            self._sleep(own, remaining)


def _stack(images: Sequence[Pixels]) -> Pixels:
    """As np.stack does, read-only.

    That would give Python's lock up for every image, and wait for the event loop to have it back: 8 % of a batch's time with
    ResNet-20, in which a core may idle.
    """
    first = images[0]
    return np.frombuffer(b"".join([image.data for image in images]), first.dtype).reshape(
        len(images), *first.shape
    )


def _give_way() -> None:
    """Let the event loop be scheduled before this thread, where both want a core: it feeds all instances, and refuses in time.

    With ResNet-20 and more requests than two cores carry, refusals came within 14 to 65 ms at p99 instead of 73 to 190, and
    without overload there were a few per cent more answers. Linux has a niceness by thread; elsewhere it belongs to the process.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(
                os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread))
            )


def _settle(
    batch: Sequence[_Item], outcome: Rows | ServiceError, began: float, ended: float
) -> None:
    """Hand a batch's outcome to the event loop, in one hop; a loop that is gone has no one waiting."""

    def settle() -> None:
        for position, item in enumerate(batch):
            if item.future.done():
                continue
            if isinstance(outcome, ServiceError):
                item.future.set_exception(outcome)
            else:
                item.future.set_result(
                    ImageResult(outcome[position], began - item.enqueued, ended - began, len(batch))
                )

    loop = batch[0].future.get_loop()
    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        logger.debug("the event loop ended before a batch of %d images was answered", len(batch))
