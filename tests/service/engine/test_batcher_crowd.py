"""The batcher under random load with failures, cancellations and deadlines."""

import asyncio
import functools
import itertools
import logging
import random
import threading
import time
from typing import Any

import numpy as np
import pytest
from gated_model import numbered, read_numbers
from server_process import PATIENCE_SECONDS

from service.engine.batcher import Batcher
from service.engine.priority import BULK, INTERACTIVE
from service.engine.queued_image import ImageResult
from service.errors import DeadlineExceededError, InferenceError

pytestmark = pytest.mark.anyio


class RandomLoad:
    """Requests of all sizes and both priorities; some are cancelled, some are late.

    Each compares every result with its own image.
    """

    def __init__(self, batcher: Batcher, requests: int, seed: str) -> None:
        self._batcher = batcher
        self._chance = random.Random(seed)
        sizes = [
            1 if self._chance.random() < 0.7 else self._chance.randint(2, 20)
            for _ in range(requests)
        ]
        self.images = sum(sizes)
        self.settled = [0] * self.images
        self.outcomes = dict.fromkeys(
            (ImageResult, InferenceError, DeadlineExceededError, asyncio.CancelledError), 0
        )
        self._requests = list(
            itertools.starmap(range, itertools.pairwise([0, *itertools.accumulate(sizes)]))
        )

    async def run_client(self) -> None:
        while self._requests:
            await self._request(self._requests.pop())

    async def _request(self, numbers: range) -> None:
        is_late, is_cancelled = self._chance.random() < 0.05, self._chance.random() < 0.05
        deadline = time.monotonic() + (0 if is_late else PATIENCE_SECONDS)
        priority = INTERACTIVE if self._chance.random() < 0.5 else BULK
        futures = [self._batcher.submit(numbered(number), deadline, priority) for number in numbers]
        for number, future in zip(numbers, futures, strict=True):
            future.add_done_callback(functools.partial(self._count_settled, number))
        if is_cancelled:
            await asyncio.sleep(0)
            for future in futures:
                future.cancel()
        for number, outcome in zip(
            numbers, await asyncio.gather(*futures, return_exceptions=True), strict=True
        ):
            self.outcomes[type(outcome)] += 1
            assert not isinstance(outcome, ImageResult) or outcome.row.tolist() == [number]
            assert is_cancelled or not isinstance(outcome, asyncio.CancelledError)
            assert is_late or not isinstance(outcome, DeadlineExceededError)

    def _count_settled(self, number: int, _: asyncio.Future[ImageResult]) -> None:
        self.settled[number] += 1


@pytest.mark.parametrize(
    ("largest", "instances", "delay"), [(16, 1, 0.0), (3, 3, 0.0), (16, 2, 0.002)]
)
async def test_each_image_gets_its_own_outcome_once(
    largest: int, instances: int, delay: float, caplog: pytest.LogCaptureFixture
) -> None:
    """10,000 requests with failing batches, cancellations and deadlines; late images never run."""
    loop_errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: loop_errors.append(context))
    ran = [0] * instances

    def run(images: np.ndarray) -> np.ndarray:
        ran[int(threading.current_thread().name.rsplit("-", 1)[-1]) - 1] += len(images)
        rows = read_numbers(images)
        if (rows % 101 == 0).any():
            raise ValueError("this batch fails")
        return rows

    with caplog.at_level(logging.CRITICAL, "service.engine.batcher"):
        batcher = Batcher(run, largest, instances, delay)
        load = RandomLoad(batcher, 10_000, seed=f"{instances} {delay}")
        await asyncio.gather(*(load.run_client() for _ in range(32)))
        await asyncio.to_thread(batcher.close)
    assert load.settled == [1] * load.images
    assert min(load.outcomes.values()) > 100, load.outcomes
    answered_or_failed = load.outcomes[ImageResult] + load.outcomes[InferenceError]
    assert answered_or_failed <= sum(ran) <= load.images - load.outcomes[DeadlineExceededError]
    assert loop_errors == []
