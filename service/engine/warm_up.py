"""The first runs of a session: they prepare the provider and time each batch size."""

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
"""Without `max_batch_size`, no batch is tried that takes longer than this.

Longer runs gain nothing on a CPU and make new images wait longer.
"""
OUTLIER_RATIO: Final = 2.2
"""A run is suspected to be an outlier if it took this many times as long as half the images."""
BATCH_OVERHEAD_SECONDS: Final = 7e-4
BATCH_OVERHEAD_SHARE: Final = 0.05
"""Overhead of a batch under load: the constant, plus this share of a run of one image.

A thread wakes up, waits for the GIL and starts with cold caches. Batches that are too small lose
5 to 10 % of the throughput, batches that are too large 2 % (benchmarks/RESULTS.md).
"""
MIN_GAIN: Final = 1.02
"""A larger batch must bring this many times the images per second."""
RETRY_BELOW_SECONDS: Final = 0.02
"""Runs this short are timed again: memory allocation and other processes distort them."""
RETRY_TWICE_BELOW_SECONDS: Final = 0.005
Run = Callable[[Pixels, RunControl], Logits]


def warm_up(
    run: Run,
    shape: Input,
    classes: int,
    largest: int,
    sizes: Sequence[int] = (),
    longest_seconds: float = math.inf,
) -> dict[int, float]:
    """Time runs on black images.

    Args:
        run: The session's run.
        shape: Height and width of the model's input.
        classes: The number of scores per image that the model must return.
        largest: The largest batch size to run.
        sizes: Sizes that the provider compiles for. All of them are run, the largest first: a graph
            compiled for a range of sizes is not compiled again for those in between.
        longest_seconds: Without `sizes`, batch sizes double up to `largest`, but stop before a run
            that would take longer than this, or once larger batches bring no gain.

    Returns:
        Seconds of a run by batch size.

    Raises:
        ModelRunError: A run failed, or returned scores of another shape.
    """
    if sizes:
        for size in sorted(sizes, reverse=True):
            _time_run(run, shape, classes, size)
        seconds = {size: _time_run(run, shape, classes, size) for size in sizes}
    else:
        seconds = _time_doubling_sizes(run, shape, classes, largest, longest_seconds)
    # Release the memory of the largest batch, which an idle model does not need.
    run(_black_images(shape, 1), RunControl(release_memory=True))
    return seconds


def _time_doubling_sizes(
    run: Run, shape: Input, classes: int, largest: int, longest_seconds: float
) -> dict[int, float]:
    seconds: dict[int, float] = {}
    size = 1

    def double_takes_too_long() -> bool:
        return 2 * seconds[size] > longest_seconds

    def is_last() -> bool:
        return double_takes_too_long() or (longest_seconds < math.inf and not _still_gains(seconds))

    def may_be_outlier() -> bool:
        half = seconds.get(size // 2, 0.0)
        return not double_takes_too_long() or seconds[size] > OUTLIER_RATIO * half

    while True:
        seconds[size] = _time_run(run, shape, classes, size)  # the first run also allocates memory
        if seconds[size] < RETRY_BELOW_SECONDS or (is_last() and may_be_outlier()):
            retries = 2 if seconds[size] < RETRY_TWICE_BELOW_SECONDS else 1
            seconds[size] = min(
                seconds[size], *(_time_run(run, shape, classes, size) for _ in range(retries))
            )
        if size == largest or is_last():
            return seconds
        size = min(2 * size, largest)


def best_batch_size(seconds: Mapping[int, float]) -> int:
    """The smallest size whose throughput is within `MIN_GAIN` of the best.

    Larger batches would make all instances start and end together, so that clients and instances
    wait for each other.
    """
    per_image = _seconds_per_image(seconds)
    best = min(per_image.values())
    return min(size for size, value in per_image.items() if value <= MIN_GAIN * best)


def _still_gains(seconds: Mapping[int, float]) -> bool:
    """Whether the last two doublings raised the throughput; if not, further ones will not."""
    (*_, before, _, last) = [math.inf, math.inf, *_seconds_per_image(seconds).values()]
    return before > MIN_GAIN * last


def _seconds_per_image(seconds: Mapping[int, float]) -> dict[int, float]:
    overhead = BATCH_OVERHEAD_SECONDS + BATCH_OVERHEAD_SHARE * seconds[min(seconds)]
    return {size: (value + overhead) / size for size, value in seconds.items()}


def _time_run(run: Run, shape: Input, classes: int, size: int) -> float:
    images = _black_images(shape, size)
    began = time.perf_counter()
    scores = run(images, RunControl())
    seconds = time.perf_counter() - began
    if scores.shape != (size, classes):
        raise ModelRunError(
            f"the model returned scores of shape {scores.shape}, expected {(size, classes)}"
        )
    return seconds


def _black_images(shape: Input, size: int) -> Pixels:
    return np.zeros((size, shape.height, shape.width, 3), np.uint8)
