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

LONGEST_RUN_SECONDS: Final = 0.25
"""Where nothing is set, larger sizes are not tried: a longer run gains nothing on a CPU, and whoever comes next waits for it."""
SURPRISING: Final = 2.2  # times what half of the images took
BATCH_SECONDS: Final = 7e-4
BATCH_SHARE: Final = 0.05
"""What a batch costs besides its run under load: so much, and this part of one image's run. A thread wakes, waits for Python's
lock, caches are cold. Sizes that are too small lose 5 to 10 % by that, sizes that are too large 2 % (RESULTS.md)."""
WORTH: Final = 1.02  # times the images a second: for less nobody waits for a larger batch
SHORT_SECONDS: Final = 0.02  # where a run is as short as this, room in memory and what else happens count: another follows
QUICK_SECONDS: Final = 0.005  # and here two
Run = Callable[[Pixels, RunControl], Logits]


def warm_up(
    run: Run,
    shape: Input,
    classes: int,
    largest: int,
    sizes: Sequence[int] = (),
    longest_seconds: float = math.inf,
) -> dict[int, float]:
    """Seconds of a run on black images by size: 1, 2, 4 … `largest`. Raises ModelRunError where the scores have another shape.

    With `longest_seconds` the best size is looked for: it ends after one whose double would take longer, or where growing has
    ceased to pay. Where a provider prepares something by size, it is all of `sizes`, the largest first: what is compiled for a
    range of sizes is not compiled again for those between.
    """
    if sizes:
        for size in sorted(sizes, reverse=True):
            _time(run, shape, classes, size)
        seconds = {size: _time(run, shape, classes, size) for size in sizes}
    else:
        seconds = _try_sizes(run, shape, classes, largest, longest_seconds)
    run(
        _black(shape, 1), RunControl(gives_memory_back=True)
    )  # what idles needs no memory for the largest batch
    return seconds


def _try_sizes(
    run: Run, shape: Input, classes: int, largest: int, longest_seconds: float
) -> dict[int, float]:
    found: dict[int, float] = {}
    size = 1

    def ends() -> bool:
        return takes_long() or (longest_seconds < math.inf and not _gains(found))

    def takes_long() -> bool:
        return 2 * found[size] > longest_seconds

    def may_be_a_hiccup() -> bool:
        return not takes_long() or found[size] > SURPRISING * found.get(size // 2, 0.0)

    while True:
        found[size] = _time(run, shape, classes, size)  # makes room in memory, too
        if found[size] < SHORT_SECONDS or (ends() and may_be_a_hiccup()):
            again = 2 if found[size] < QUICK_SECONDS else 1
            found[size] = min(
                found[size], *(_time(run, shape, classes, size) for _ in range(again))
            )
        if size == largest or ends():
            return found
        size = min(2 * size, largest)


def size_worth_waiting_for(seconds: Mapping[int, float]) -> int:
    """The smallest size with nearly the most images a second.

    Larger batches would make instances start and end together, so that clients wait for all of them and they for the clients.
    """
    each = _each(seconds)
    return min(size for size, taken in each.items() if taken <= WORTH * min(each.values()))


def _gains(seconds: Mapping[int, float]) -> bool:
    """Whether the last two doublings together were worth it; if not, all that could follow would gain less than half of that."""
    (*_, before, _, last) = [math.inf, math.inf, *_each(seconds).values()]
    return before > WORTH * last


def _each(seconds: Mapping[int, float]) -> dict[int, float]:
    """Of one image, by the size of its batch."""
    besides = BATCH_SECONDS + BATCH_SHARE * seconds[min(seconds)]
    return {size: (taken + besides) / size for size, taken in seconds.items()}


def _time(run: Run, shape: Input, classes: int, size: int) -> float:
    images = _black(shape, size)
    began = time.perf_counter()
    scores = run(images, RunControl())
    seconds = time.perf_counter() - began
    if scores.shape != (size, classes):
        raise ModelRunError(
            f"the model gives scores of shape {scores.shape}, expected {(size, classes)}"
        )
    return seconds


def _black(shape: Input, size: int) -> Pixels:
    return np.zeros((size, shape.height, shape.width, 3), np.uint8)
