"""Dynamic batching: one queue and the instance threads that take batches from it.

The batcher is work-conserving. An idle instance takes what is queued at once; while all instances
run, the next batch grows. Nothing polls, and no timer runs while the queue is empty.
"""

import asyncio
import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from model_store.preprocessing import Pixels
from service.engine.extras import NO_EXTRAS, Extras
from service.engine.image_group import ImageGroup
from service.engine.lone_run import LoneRun
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.engine.queued_image import (
    BatchTrace,
    ImageResult,
    QueuedImage,
    Rows,
    join_images,
    set_results,
)
from service.errors import DeadlineExceededError, InferenceError, ServiceError
from service.host.thread_priority import lower_thread_priority

DropReason = Literal["cancelled", "deadline"]
MIN_QUEUE_TO_CLEAN: Final = 256
"""Cancelled images are removed from a queue once it is longer than this."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)  # not frozen: that would double the time to create one
class RunInProgress:
    """A running batch that the estimate of waiting times treats apart.

    Attributes:
        began: When the run began, on the monotonic clock.
        images: Images of both priorities.
        bulk: Bulk images among them.
    """

    began: float
    images: int
    bulk: int


class Batcher:
    """Runs submitted images in batches; every image gets exactly one result or error.

    A batch that fails affects no other batch.
    """

    def __init__(
        self,
        run: Callable[[Pixels], Rows],
        max_batch_size: int,
        instances: int = 1,
        max_queue_delay_seconds: float = 0.0,
        name: str = "batcher",
        on_run: Callable[[int, float], None] = lambda *_: None,
        run_with: Callable[[Pixels, Extras], Rows] | None = None,
        lone: LoneRun | None = None,
    ) -> None:
        """Start the instance threads.

        Args:
            run: Called by the instance threads with read-only uint8 `[batch, height, width, 3]`;
                returns one row per image.
            max_batch_size: The most images in one run.
            instances: Concurrent runs.
            max_queue_delay_seconds: How long a batch that is not full waits for more images.
            name: Prefix of the threads' names.
            on_run: Called with the images and the seconds of each successful run.
            run_with: Called instead of `run` if images of the batch ask for extra outputs.
            lone: How to run an image that is alone in the process; None to run it like others.
        """
        self._lone = lone
        self._run = run
        self._run_with = run_with or (lambda images, _: run(images))
        self._on_run = on_run
        self._max_batch_size = max_batch_size
        self._max_queue_delay_seconds = max_queue_delay_seconds
        self._queue: deque[QueuedImage] = deque()
        self._bulk_queue: deque[QueuedImage] = deque()
        self._lock = threading.Lock()
        self._clean_above = {False: MIN_QUEUE_TO_CLEAN, True: MIN_QUEUE_TO_CLEAN}  # by `bulk`
        # One condition on `_lock` per sleeping thread. The last one to sleep is woken first, so a
        # lone client is always served by the same thread, whose caches are warm.
        self._sleeping: list[threading.Condition] = []
        self.batch_sizes: Counter[int] = Counter()
        self.batch_seconds: defaultdict[int, float] = defaultdict(float)
        """By number of images: the seconds of all runs."""
        self.dropped: Counter[DropReason] = Counter()
        """Images that left the queue without a run."""
        self.bulk_runs: dict[int, RunInProgress] = {}
        """Batches with bulk images, by thread, without a lone run.

        Copy it before iterating: instance threads change it.
        """
        self.lone_run: RunInProgress | None = None
        """The run of a lone image, if one is in progress."""
        self.lone_runs = 0
        """Lone runs that succeeded. `batch_sizes` counts them, too."""
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run_batches, name=f"{name}-{number}", daemon=True)
            for number in range(1, instances + 1)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # the host is short of threads
            self.close()
            raise

    def submit(
        self,
        image: Pixels,
        deadline: float,
        priority: Priority = INTERACTIVE,
        *,
        extras: Extras = NO_EXTRAS,
        trace: BatchTrace | None = None,
    ) -> asyncio.Future[ImageResult]:
        """Queue one image from the event loop.

        Args:
            image: uint8 `[height, width, 3]`, contiguous.
            deadline: Seconds on the monotonic clock.
            priority: Bulk images only fill batches that interactive images leave incomplete.
            extras: The extra outputs that the batch of this image must be run with.
            trace: The trace of its request, if the request is sampled.

        Returns:
            A future that ends in an ImageResult, a DeadlineExceededError, an InferenceError or the
            error that the run returned for the image. A cancelled image is not run.

        Raises:
            RuntimeError: The batcher is closed.
        """
        future: asyncio.Future[ImageResult] = asyncio.get_running_loop().create_future()
        now, bulk = time.monotonic(), priority == BULK
        self._enqueue((QueuedImage(image, deadline, future, now, bulk, extras, trace),), bulk=bulk)
        return future

    def submit_all(
        self,
        images: Sequence[Pixels] | Pixels,
        deadline: float,
        priority: Priority = INTERACTIVE,
        *,
        extras: Extras = NO_EXTRAS,
        trace: BatchTrace | None = None,
    ) -> asyncio.Future[list[ImageResult | ServiceError]]:
        """Queue images as `submit` does. Returns one future of the result or error of each."""
        group = ImageGroup(images)
        future, now, bulk = group.future, time.monotonic(), priority == BULK
        queued = [
            QueuedImage(image, deadline, future, now, bulk, extras, trace, group, index)
            for index, image in enumerate(images)
        ]
        self._enqueue(queued, bulk=bulk)
        return future

    def _enqueue(self, queued: Sequence[QueuedImage], *, bulk: bool) -> None:
        with self._lock:
            if self._closing:
                raise RuntimeError("this batcher is closed, although a request leases its version")
            (queue := self._bulk_queue if bulk else self._queue).extend(queued)
            if len(queue) > self._clean_above[bulk]:
                self._remove_cancelled(queue, bulk=bulk)
            for _ in range(min(len(self._sleeping), -(-len(queued) // self._max_batch_size))):
                self._sleeping.pop().notify()

    @property
    def waiting(self) -> int:
        """Queued images of both priorities."""
        return len(self._queue) + len(self._bulk_queue)

    @property
    def waiting_bulk(self) -> int:
        return len(self._bulk_queue)

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest queued image has waited; 0 if none waits."""
        with self._lock:
            waiting = [
                queued.enqueued
                for queue in (self._queue, self._bulk_queue)
                for queued in islice((each for each in queue if not each.future.done()), 1)
            ]
        return time.monotonic() - min(waiting) if waiting else 0.0

    @property
    def instances(self) -> int:
        """Instance threads that are alive."""
        return sum(thread.is_alive() for thread in self._threads)

    @property
    def busy_instances(self) -> int:
        return max(0, self.instances - len(self._sleeping))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued or running."""
        return not self.waiting and not self.busy_instances

    @property
    def has_stopped(self) -> bool:
        """Whether an instance thread has ended, although the batcher is not closed."""
        return not self._closing and self.instances < len(self._threads)

    def close(self) -> None:
        """Run what is queued, then end the threads. Blocks; a second call does nothing."""
        with self._lock:
            self._closing = True
            while self._sleeping:
                self._sleeping.pop().notify()
        for thread in self._threads:
            if thread.ident is not None:  # it was started
                thread.join()

    def _run_batches(self) -> None:
        lower_thread_priority()
        wakeup = threading.Condition(self._lock)
        while batch := self._next_batch(wakeup):
            lone = self._lone if self._is_lone(batch) else None
            with self._in_progress(batch, lone) as run:
                outcome = self._compute(batch, lone)
            ended = time.monotonic()
            if not isinstance(outcome, ServiceError):
                seconds = ended - run.began
                if lone:
                    lone.on_run(seconds)
                else:
                    self._on_run(len(batch), seconds)
                with self._lock:
                    self.lone_runs += lone is not None
                    self.batch_sizes[len(batch)] += 1
                    self.batch_seconds[len(batch)] += seconds
            if traces := [queued.trace for queued in batch if queued.trace]:
                traces[0].add_batch(traces, run.began, ended, len(batch))
            set_results(batch, outcome, run.began, ended)

    @contextmanager
    def _in_progress(
        self, batch: Sequence[QueuedImage], lone: LoneRun | None
    ) -> Iterator[RunInProgress]:
        """Show a run to the estimate of waiting times until it ends."""
        run = RunInProgress(time.monotonic(), len(batch), sum(queued.bulk for queued in batch))
        if lone:
            self.lone_run = run
        elif run.bulk:
            self.bulk_runs[threading.get_ident()] = run
        try:
            yield run
        finally:
            if lone:
                self.lone_run = None
            self.bulk_runs.pop(threading.get_ident(), None)

    def _compute(self, batch: Sequence[QueuedImage], lone: LoneRun | None) -> Rows | ServiceError:
        """Run a batch. Returns a row per image, or the error that the batch failed with."""
        try:
            images, extras = join_images(batch), NO_EXTRAS
            for queued in batch:
                extras |= queued.extras
            if lone:
                outcome = lone.run(images, extras)
            else:
                outcome = self._run_with(images, extras) if extras else self._run(images)
            if len(outcome) != len(batch):
                raise RuntimeError(
                    f"the model returned {len(outcome)} rows for {len(batch)} images"
                )
        except Exception:
            logger.exception("batch failed images=%d", len(batch))
            return InferenceError("the model failed on this batch; see the server's log")
        return outcome

    def _is_lone(self, batch: Sequence[QueuedImage]) -> bool:
        """Whether the batch is one image, and nothing else is queued or running in the process.

        Reads without locks: an image that arrives meanwhile is run beside this one.
        """
        return (
            self._lone is not None
            and len(batch) == 1
            and not self.waiting
            and self.busy_instances == 1
            and self._lone.others_idle(self)
        )

    def _next_batch(self, wakeup: threading.Condition) -> list[QueuedImage]:
        """Wait for images and take a batch; empty only when the batcher is closed and drained.

        Cancelled images are dropped, and images past their deadline get a DeadlineExceededError.
        """
        while True:
            batch: list[QueuedImage] = []
            late: list[QueuedImage] = []
            with self._lock:
                while not self.waiting and not self._closing:
                    self._sleep(wakeup)
                if not self.waiting:
                    return []
                self._wait_for_full_batch(wakeup)
                now = time.monotonic()
                while self.waiting and len(batch) < self._max_batch_size:
                    queued = (self._queue or self._bulk_queue).popleft()
                    if queued.future.done():
                        self.dropped["cancelled"] += 1
                    else:
                        (late if queued.deadline < now else batch).append(queued)
                self.dropped["deadline"] += len(late)
            if late:
                error = DeadlineExceededError("the deadline passed while the image was queued")
                set_results(late, error, now, now)
            if batch:
                return batch

    def _remove_cancelled(self, queue: deque[QueuedImage], *, bulk: bool) -> None:
        """Drop cancelled images, which `_next_batch` may not reach for a long time.

        Bulk images wait while interactive ones arrive, and all images wait while runs hang.
        """
        waiting = [queued for queued in queue if not queued.future.done()]
        self.dropped["cancelled"] += len(queue) - len(waiting)
        queue.clear()
        queue.extend(waiting)
        self._clean_above[bulk] = max(MIN_QUEUE_TO_CLEAN, 2 * len(waiting))

    def _sleep(self, wakeup: threading.Condition, seconds: float | None = None) -> None:
        self._sleeping.append(wakeup)
        if not wakeup.wait(seconds):
            with suppress(ValueError):  # it was notified just after the timeout
                self._sleeping.remove(wakeup)

    def _wait_for_full_batch(self, wakeup: threading.Condition) -> None:
        """Wait for a full batch, at most until the oldest image is `max_queue_delay` old."""
        while (
            self._max_queue_delay_seconds
            and 0 < self.waiting < self._max_batch_size
            and not self._closing
        ):
            oldest = min(queue[0].enqueued for queue in (self._queue, self._bulk_queue) if queue)
            remaining = oldest + self._max_queue_delay_seconds - time.monotonic()
            if remaining <= 0:
                return
            self._sleep(wakeup, remaining)
