"""The first runs of a session, before it is ready: what a provider prepares for a batch's size it prepares now."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from model_store.errors import ModelRunError
from model_store.manifest import Input
from model_store.preprocessing import Pixels
from model_store.session import Logits, RunControl

LONGEST_RUN_SECONDS: Final = 0.15
"""Where nothing is set, larger sizes are not tried: a longer run gains nothing on a CPU, and whoever comes next waits for it."""
BATCH_SECONDS: Final = 1e-4  # what a batch costs besides its run: taking, stacking, ranking, answering (measured)
WORTH: Final = 1.03  # times the images a second: for less nobody waits for a larger batch
QUICK_SECONDS: Final = 0.02  # a first run of a size also makes room in memory; where it is as quick as this, others follow
AGAIN: Final = 2
Run = Callable[[Pixels, RunControl], Logits]


def warm_up(
    run: Run, shape: Input, classes: int, largest: int, sizes: Sequence[int] = (), longest_seconds: float = math.inf
) -> dict[int, float]:
    """Seconds of a run on black images by size: 1, 2, 4 … `largest`. Raises ModelRunError where the scores have another shape.

    It ends after a size whose double would take longer than `longest_seconds`. Where a provider prepares something by size, it
    is all of `sizes`, the largest first: what is compiled for a range of sizes is not compiled again for those between.
    """
    if sizes:
        for size in sorted(sizes, reverse=True):
            _time(run, shape, classes, size)
        return {size: _time(run, shape, classes, size) for size in sizes}
    found: dict[int, float] = {}
    size = 1
    while True:
        found[size] = _time(run, shape, classes, size)
        if found[size] < QUICK_SECONDS or 2 * found[size] > longest_seconds:  # once may be a hiccup, and this decides
            found[size] = min(found[size], *(_time(run, shape, classes, size) for _ in range(AGAIN)))
        if size == largest or 2 * found[size] > longest_seconds:
            return found
        size = min(2 * size, largest)


def size_worth_waiting_for(seconds: Mapping[int, float]) -> int:
    """The smallest size with nearly the most images a second.

    Larger batches would make instances start and end together, so that clients wait for all of them and they for the clients.
    """
    each = {size: (taken + BATCH_SECONDS) / size for size, taken in seconds.items()}
    return min(size for size, taken in each.items() if taken <= WORTH * min(each.values()))


def _time(run: Run, shape: Input, classes: int, size: int) -> float:
    images = np.zeros((size, shape.height, shape.width, 3), np.uint8)
    began = time.perf_counter()
    scores = run(images, RunControl(gives_memory_back=True))  # what idles needs no memory for the largest batch
    seconds = time.perf_counter() - began
    if scores.shape != (size, classes):
        raise ModelRunError(f"the model gives scores of shape {scores.shape}, expected {(size, classes)}")
    return seconds
