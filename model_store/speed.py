"""How fast variants of one model are beside each other: run in turn, so that whatever else the machine does meets each alike."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import Input
from model_store.preprocessing import Pixels

BATCHES: Final = (1, 8)
Seconds = NDArray[np.float64]


def batches_up_to(most: int) -> tuple[int, ...]:
    """The batches to measure a model by that takes so many images at most."""
    return tuple(sorted({min(size, most) for size in BATCHES}))


def time_in_turn(
    runs: Mapping[str, Callable[[Pixels], object]],
    shape: Input,
    *,
    rounds: int,
    budget_seconds: float = math.inf,
    least_rounds: int = 2,
    batches: Sequence[int] = BATCHES,
) -> dict[str, Seconds]:
    """Seconds of one run by name, `[rounds, batches]`, on noise. Ends early once the budget is spent, after `least_rounds`.

    The first round is a warm-up like any other: take the least of each column, or leave it out.
    """
    noise = np.random.default_rng(0).integers(
        0, 256, (max(batches), shape.height, shape.width, 3), np.uint8
    )
    taken: dict[str, list[list[float]]] = {name: [] for name in runs}
    began = time.perf_counter()
    for number in range(rounds):
        if number >= least_rounds and time.perf_counter() - began > budget_seconds:
            break
        for name, run in runs.items():
            taken[name].append([_time(run, noise[:size]) for size in batches])
    return {name: np.array(rows) for name, rows in taken.items()}


def speed_up(slow: Seconds, fast: Seconds) -> float:
    """How many times faster, the geometric mean over the columns of `[…, batches]`; of several rows the least of each counts."""
    ratios = slow.min(axis=0) / fast.min(axis=0)
    return float(np.exp(np.log(ratios).mean()))


def _time(run: Callable[[Pixels], object], images: Pixels) -> float:
    began = time.perf_counter()
    run(images)
    return time.perf_counter() - began
