"""The first runs of a session: they prepare the provider and time each batch size."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from model_store.errors import ModelRunError
from model_store.manifest import Input
from model_store.preprocessing import Pixels
from model_store.session import Logits, RunControl
from model_store.timing import Clock

LONGEST_RUN_SECONDS: Final = 0.25
"""Without `max_batch_size`, no batch is tried that takes longer than this.

Longer runs gain nothing on a CPU and make new images wait longer.
"""
BATCH_OVERHEAD_SECONDS: Final = 7e-4
BATCH_OVERHEAD_SHARE: Final = 0.05
"""Overhead of a batch under load: the constant, plus this share of a run of one image.

A thread wakes up, waits for the GIL and starts with cold caches. Batches that are too small lose
5 to 10 % of the throughput, batches that are too large 2 % (benchmarks/RESULTS.md).
"""
MIN_GAIN: Final = 1.02
"""A larger batch must bring this many times the images per second."""
STABLE_ROUNDS: Final = 6
"""If half of the runs take up to three times as long, the choice loses at most 4 % throughput.

With two rounds it loses up to 39 % (`test_noise_costs_little_throughput`).
"""
STABLE_ROUNDS_OF_CPU_TIME: Final = 2
"""CPU times vary by 10 %, even if other programs run (`benchmarks/batch_size_choice.py`)."""
MIN_ROUNDS: Final = 2
MAX_REPEAT_SECONDS: Final = 1.0
"""No further round begins after this, unless fewer than `MIN_ROUNDS` were timed."""
Run = Callable[[Pixels, RunControl], Logits]


def warm_up(
    run: Run,
    shape: Input,
    classes: int,
    largest: int,
    sizes: Sequence[int] = (),
    longest_seconds: float = math.inf,
    clock: Clock = time.perf_counter,
    stable_rounds: int = STABLE_ROUNDS,
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
        clock: `time.thread_time` for sessions that run in the calling thread: other processes then
            do not distort the times.
        stable_rounds: The choice is stable once this many rounds in a row do not change it.

    Returns:
        Seconds of a run by batch size.

    Raises:
        ModelRunError: A run failed, or returned scores of another shape.
    """
    timer = _Timer(run, shape, classes, clock)
    if sizes:
        timer.time_all(sorted(sizes, reverse=True))
        timer.seconds.clear()
        timer.time_all(sizes)
    else:
        timer.time(1)
        _try_larger_sizes(timer, largest, longest_seconds)
        if longest_seconds < math.inf:
            _repeat_until_stable(timer, largest, longest_seconds, stable_rounds)
        else:
            timer.time_all(list(timer.seconds))  # the first runs also allocate memory
    release_memory(run, shape)  # an idle model does not need that of the largest batch
    return timer.seconds


def release_memory(run: Run, shape: Input) -> None:
    """Run one black image, and return the memory that earlier runs took to the system.

    Raises:
        ModelRunError: The run failed.
    """
    run(_black_images(shape, 1), RunControl(release_memory=True))


class _Timer:
    """Times runs and keeps the shortest of each size.

    Memory allocation and other processes only ever lengthen a run.
    """

    def __init__(self, run: Run, shape: Input, classes: int, clock: Clock) -> None:
        self._run = run
        self._shape = shape
        self._classes = classes
        self._clock = clock
        self.seconds: dict[int, float] = {}

    def time(self, size: int) -> None:
        images = _black_images(self._shape, size)
        began = self._clock()
        scores = self._run(images, RunControl())
        seconds = self._clock() - began
        if scores.shape != (size, self._classes):
            raise ModelRunError(
                f"the model returned scores of shape {scores.shape}, "
                f"expected {(size, self._classes)}"
            )
        self.seconds[size] = min(seconds, self.seconds.get(size, math.inf))

    def time_all(self, sizes: Iterable[int]) -> None:
        for size in sizes:
            self.time(size)


def _try_larger_sizes(timer: _Timer, largest: int, longest_seconds: float) -> None:
    """Double the batch size while runs are short enough and larger batches gain."""
    size = max(timer.seconds)
    while size < largest and 2 * timer.seconds[size] <= longest_seconds:
        if longest_seconds < math.inf and not _still_gains(timer.seconds):
            return
        size = min(2 * size, largest)
        timer.time(size)


def _repeat_until_stable(
    timer: _Timer, largest: int, longest_seconds: float, stable_rounds: int
) -> None:
    """Time all sizes again, in turn, until `stable_rounds` rounds in a row change no choice.

    The choice may still differ between processes if two sizes have almost the same throughput.
    `benchmarks/batch_size_choice.py` measures how often, and what it costs.
    """
    rounds, unchanged, spent = 0, 0, 0.0
    while unchanged < stable_rounds and (rounds < MIN_ROUNDS or spent < MAX_REPEAT_SECONDS):
        chosen, sizes = best_batch_size(timer.seconds), list(timer.seconds)
        began = time.perf_counter()
        timer.time_all(sizes)
        _try_larger_sizes(timer, largest, longest_seconds)
        spent += time.perf_counter() - began
        rounds += 1
        same = best_batch_size(timer.seconds) == chosen and len(timer.seconds) == len(sizes)
        unchanged = unchanged + 1 if same else 0


def best_batch_size(seconds: Mapping[int, float]) -> int:
    """The smallest size whose throughput is within `MIN_GAIN` of the best.

    Larger batches would make all instances start and end together, so that clients and instances
    wait for each other.
    """
    per_image = seconds_per_image(seconds)
    best = min(per_image.values())
    return min(size for size, value in per_image.items() if value <= MIN_GAIN * best)


def _still_gains(seconds: Mapping[int, float]) -> bool:
    """Whether the last two doublings raised the throughput; if not, further ones will not."""
    (*_, before, _, last) = [math.inf, math.inf, *seconds_per_image(seconds).values()]
    return before > MIN_GAIN * last


def seconds_per_image(seconds: Mapping[int, float]) -> dict[int, float]:
    """Seconds of an image by batch size, with the overhead of its batch under load."""
    overhead = BATCH_OVERHEAD_SECONDS + BATCH_OVERHEAD_SHARE * seconds[min(seconds)]
    return {size: (value + overhead) / size for size, value in seconds.items()}


def _black_images(shape: Input, size: int) -> Pixels:
    return np.zeros((size, shape.height, shape.width, 3), np.uint8)
