"""How long a batch takes here: measured as a version warms up, and corrected by every batch that really runs."""

import math
import threading
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

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
            self._seconds = [
                value * (whole if at == place else half) for at, value in enumerate(self._seconds)
            ]

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

    def wait_seconds(
        self, ahead: int, images: int, max_batch_size: int, instances: int, filling: int = 0
    ) -> float:
        """Until so many new images are done behind `ahead` others: whole batches on all instances, then a smaller one.

        `filling` others take the places that the smaller one leaves.
        """
        at_once = max_batch_size * instances
        rounds, rest = divmod(ahead + images, at_once)
        last = self.seconds(math.ceil(min(rest + filling, at_once) / instances)) if rest else 0.0
        return rounds * self.seconds(max_batch_size) + last
