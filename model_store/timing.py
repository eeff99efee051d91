"""Compares the speed of several variants of a model.

They run alternately, so other load on the machine affects all of them alike.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import Input
from model_store.preprocessing import Pixels

BATCH_SIZES: Final = (1, 8)
Seconds = NDArray[np.float64]
Clock = Callable[[], float]


def timed_batch_sizes(max_batch_size: int) -> tuple[int, ...]:
    """The batch sizes to time a model with, ascending: `BATCH_SIZES`, at most `max_batch_size`."""
    return tuple(sorted({min(size, max_batch_size) for size in BATCH_SIZES}))


def time_alternately(
    runs: Mapping[str, Callable[[Pixels], object]],
    shape: Input,
    *,
    rounds: int,
    budget_seconds: float = math.inf,
    min_rounds: int = 2,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    clock: Clock = time.perf_counter,
) -> dict[str, Seconds]:
    """Time one run of each variant per round and batch size, on noise.

    The first round warms up like any other, so use the minimum over the rounds or drop the first.

    Args:
        runs: What to time, by name. It receives uint8 `[batch, height, width, 3]`.
        shape: Height and width of the images.
        rounds: How often each variant runs with each batch size.
        budget_seconds: No further round starts after this time, once `min_rounds` are done.
        min_rounds: Rounds that run even if the budget is used up.
        batch_sizes: The batch sizes.
        clock: Returns the time in seconds.

    Returns:
        Seconds by name, float64 `[rounds, batch sizes]`.
    """
    noise = np.random.default_rng(0).integers(
        0, 256, (max(batch_sizes), shape.height, shape.width, 3), np.uint8
    )
    seconds: dict[str, list[list[float]]] = {name: [] for name in runs}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= min_rounds and time.perf_counter() - start > budget_seconds:
            break
        for name, run in runs.items():
            seconds[name].append([_time(run, noise[:size], clock) for size in batch_sizes])
    return {name: np.array(rows) for name, rows in seconds.items()}


def speedup(slow: Seconds, fast: Seconds) -> float:
    """How many times faster `fast` is: the geometric mean over batch sizes of the fastest rounds.

    Args:
        slow: Seconds `[rounds, batch sizes]`.
        fast: Seconds `[rounds, batch sizes]`; the number of rounds may differ.
    """
    ratios = slow.min(axis=0) / fast.min(axis=0)
    return float(np.exp(np.log(ratios).mean()))


def _time(run: Callable[[Pixels], object], images: Pixels, clock: Clock) -> float:
    start = clock()
    run(images)
    return clock() - start
