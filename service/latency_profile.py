"""How long a batch takes here: measured as a version warms up, and corrected by every batch that really runs."""

import math
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from model_store.manifest import Input
from model_store.preprocessing import Pixels

LONGEST_RUN_SECONDS: Final = 0.15
"""Where nothing is set, batches grow no further: a longer run gains no throughput on a CPU, and whoever comes next waits for it."""
QUICK_SECONDS: Final = 0.02  # a first run of a size also makes room in memory; one as quick as this is run again
WEIGHT: Final = 0.1  # of the newest run: after ten of them a load beside live traffic is known


class LatencyProfile:
    """Seconds of one run by its number of images; between the sizes that were measured it is linear. For use from all threads."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        """`seconds` has at least one size."""
        self._sizes = sorted(seconds)
        self._seconds = [seconds[size] for size in self._sizes]
        self._lock = threading.Lock()

    def observe(self, images: int, seconds: float) -> None:
        """Take a run of so many images into account: what slows one size down slows all, the nearest most."""
        with self._lock:
            ratio = max(seconds, 1e-6) / self.seconds(images)
            place = min(bisect_left(self._sizes, images), len(self._sizes) - 1)
            whole, half = ratio**WEIGHT, ratio ** (WEIGHT / 2)
            self._seconds = [value * (whole if at == place else half) for at, value in enumerate(self._seconds)]

    def seconds(self, images: int) -> float:
        """Of one run of so many images, at least 1."""
        sizes, seconds = self._sizes, self._seconds
        above = bisect_left(sizes, images)
        if above == len(sizes):
            return seconds[-1] * images / sizes[-1]
        if sizes[above] == images or above == 0:
            return seconds[above]
        share = (images - sizes[above - 1]) / (sizes[above] - sizes[above - 1])
        return seconds[above - 1] + share * (seconds[above] - seconds[above - 1])

    def wait_seconds(self, ahead: int, images: int, max_batch_size: int, instances: int) -> float:
        """Until so many new images are done behind `ahead` others: whole batches on all instances, then a smaller one."""
        rounds, rest = divmod(ahead + images, max_batch_size * instances)
        last = self.seconds(math.ceil(rest / instances)) if rest else 0.0
        return rounds * self.seconds(max_batch_size) + last


def measure(
    run: Callable[[Pixels], object], shape: Input, largest: int, longest_seconds: float = LONGEST_RUN_SECONDS
) -> dict[int, float]:
    """Seconds of a run on black images by size: 1, 2, 4 … `largest`. Ends after a size whose double would take too long."""
    found: dict[int, float] = {}
    size = 1
    while True:
        images = np.zeros((size, shape.height, shape.width, 3), np.uint8)
        found[size] = _time(run, images)
        if found[size] < QUICK_SECONDS:
            found[size] = min(found[size], _time(run, images))
        if size == largest or 2 * found[size] > longest_seconds:
            return found
        size = min(2 * size, largest)


def _time(run: Callable[[Pixels], object], images: Pixels) -> float:
    began = time.perf_counter()
    run(images)
    return time.perf_counter() - began
