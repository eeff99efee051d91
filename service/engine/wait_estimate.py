"""Estimates how long new images wait for their results, from run times and queued work."""

import math
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from service.engine.batcher import Batcher, RunInProgress
from service.engine.priority import BULK, INTERACTIVE, Priority

NEWEST_RUN_WEIGHT: Final = 0.1
"""The profile follows a change of load on the machine within about ten runs."""


class LatencyProfile:
    """Seconds of one run by its number of images, linear between the measured sizes.

    Measured during warm-up and corrected by every later run. Thread-safe.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        """Start from the measured `seconds` by batch size; at least one size is required."""
        self._sizes = sorted(seconds)
        self._seconds = [seconds[size] for size in self._sizes]
        self._lock = threading.Lock()

    def observe(self, images: int, seconds: float) -> None:
        """Correct the profile by a run of `images` images.

        A load that slows one size down slows all of them, so the nearest size moves by the full
        weight and the others by half of it.
        """
        with self._lock:
            ratio = max(seconds, 1e-6) / self.seconds(images)
            nearest = min(bisect_left(self._sizes, images), len(self._sizes) - 1)
            full, half = ratio**NEWEST_RUN_WEIGHT, ratio ** (NEWEST_RUN_WEIGHT / 2)
            self._seconds = [
                value * (full if index == nearest else half)
                for index, value in enumerate(self._seconds)
            ]

    def seconds(self, images: int) -> float:
        """Seconds of one run of `images` images; `images` must be at least 1."""
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
        """Seconds until `images` new images finish when `ahead` images are already queued.

        All instances run full batches, then one smaller batch each. `filling` images of lower
        priority take the places that are left in the smaller batches.
        """
        images_per_round = max_batch_size * instances
        rounds, rest = divmod(ahead + images, images_per_round)
        if not rest:
            return rounds * self.seconds(max_batch_size)
        last_batch = math.ceil(min(rest + filling, images_per_round) / instances)
        return rounds * self.seconds(max_batch_size) + self.seconds(last_batch)


class WaitEstimate:
    def __init__(
        self,
        profile: LatencyProfile,
        batcher: Batcher,
        max_batch_size: int,
        instances: int,
        max_queue_delay_seconds: float,
        lone_profile: LatencyProfile | None = None,
    ) -> None:
        self._profile = profile
        self._batcher = batcher
        self._max_batch_size = max_batch_size
        self._instances = instances
        self._max_queue_delay_seconds = max_queue_delay_seconds
        self._lone_profile = lone_profile or profile

    def seconds(self, ahead: int, images: int, priority: Priority) -> float:
        """Seconds until `images` new images finish when `ahead` images are admitted before them.

        `ahead` counts queued and running images. Interactive images overtake queued bulk images,
        but wait for running batches, and queued bulk images fill up their batches. A lone run has
        all threads, so new images begin when it ends.
        """
        running, filling = 0.0, 0
        if lone_run := self._batcher.lone_run:
            running = self._remaining_seconds(lone_run, self._lone_profile)
            if priority == BULK or not lone_run.bulk:  # it is counted in `ahead`
                ahead = max(0, ahead - 1)
        if priority == INTERACTIVE:
            running += self._running_bulk_seconds(ahead + images)
            filling = self._batcher.waiting_bulk
        wait = self._profile.wait_seconds(
            ahead, images, self._max_batch_size, self._instances, filling
        )
        return self._max_queue_delay_seconds + running + wait

    def _running_bulk_seconds(self, images: int) -> float:
        """Mean remaining time of running bulk batches on the instances that new images will use.

        Idle instances are used first. In a batch of both priorities only the share of bulk images
        counts, because `ahead` already includes its interactive images.
        """
        if not self._batcher.bulk_runs:
            return 0.0
        runs = self._batcher.bulk_runs.copy().values()
        remaining = [
            self._remaining_seconds(run, self._profile) * run.bulk / run.images for run in runs
        ]
        idle = [0.0] * (self._instances - len(remaining))
        batches = min(self._instances, math.ceil(images / self._max_batch_size)) or 1
        return sum(sorted(idle + remaining)[:batches]) / batches

    @staticmethod
    def _remaining_seconds(run: RunInProgress, profile: LatencyProfile) -> float:
        return max(0.0, profile.seconds(run.images) - (time.monotonic() - run.began))
