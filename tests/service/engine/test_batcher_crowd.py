"""The batcher under a crowd: nobody gets what belongs to another, whatever fails, leaves or is late."""

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

from service.engine.batcher import Batcher, ImageResult
from service.engine.priority import BULK, INTERACTIVE
from service.errors import DeadlineExceededError, InferenceError

pytestmark = pytest.mark.anyio


class Crowd:
    """Callers with requests of all sizes and both priorities, some of whom leave or are in a hurry.

    Each holds every answer against its own image.
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

    async def caller(self) -> None:
        while self._requests:
            await self._request(self._requests.pop())

    async def _request(self, numbers: range) -> None:
        hurry, leaves = self._chance.random() < 0.05, self._chance.random() < 0.05
        deadline = time.monotonic() + (0 if hurry else PATIENCE_SECONDS)
        priority = INTERACTIVE if self._chance.random() < 0.5 else BULK
        futures = [self._batcher.submit(numbered(number), deadline, priority) for number in numbers]
        for number, future in zip(numbers, futures, strict=True):
            future.add_done_callback(functools.partial(self._settle, number))
        if leaves:
            await asyncio.sleep(0)
            for future in futures:
                future.cancel()
        for number, outcome in zip(
            numbers, await asyncio.gather(*futures, return_exceptions=True), strict=True
        ):
            self.outcomes[type(outcome)] += 1
            assert not isinstance(outcome, ImageResult) or outcome.row.tolist() == [number]
            assert leaves or not isinstance(outcome, asyncio.CancelledError)
            assert hurry or not isinstance(outcome, DeadlineExceededError)

    def _settle(self, number: int, _: asyncio.Future[ImageResult]) -> None:
        self.settled[number] += 1


@pytest.mark.parametrize(
    ("largest", "instances", "delay"), [(16, 1, 0.0), (3, 3, 0.0), (16, 2, 0.002)]
)
async def test_results_never_cross_callers(
    largest: int, instances: int, delay: float, caplog: pytest.LogCaptureFixture
) -> None:
    """10,000 requests of all sizes, failing batches, callers who leave or are late: each image has its own outcome, once.

    Nobody who left or was late is ever run: the model counts what it really ran.
    """
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    ran = [0] * instances

    def run(images: np.ndarray) -> np.ndarray:
        ran[int(threading.current_thread().name.rsplit("-", 1)[-1]) - 1] += len(images)
        rows = read_numbers(images)
        if (rows % 101 == 0).any():
            raise ValueError("this batch fails")
        return rows

    with caplog.at_level(logging.CRITICAL, "service.engine.batcher"):
        batcher = Batcher(run, largest, instances, delay)
        crowd = Crowd(batcher, 10_000, seed=f"{instances} {delay}")
        await asyncio.gather(*(crowd.caller() for _ in range(32)))
        await asyncio.to_thread(batcher.close)
    assert crowd.settled == [1] * crowd.images
    assert min(crowd.outcomes.values()) > 100, crowd.outcomes
    answered_or_failed = crowd.outcomes[ImageResult] + crowd.outcomes[InferenceError]
    assert answered_or_failed <= sum(ran) <= crowd.images - crowd.outcomes[DeadlineExceededError]
    assert troubles == []
