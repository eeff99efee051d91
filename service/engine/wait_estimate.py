"""How long new images take until they are done, with what runs and waits here now."""

import math
import time

from service.engine.batcher import Batcher
from service.engine.latency_profile import LatencyProfile
from service.engine.priority import INTERACTIVE, Priority


class WaitEstimate:
    """What a version's batcher has to do, in seconds by its profile."""

    def __init__(
        self,
        profile: LatencyProfile,
        batcher: Batcher,
        max_batch_size: int,
        instances: int,
        max_queue_delay_seconds: float,
    ) -> None:
        self._profile = profile
        self._batcher = batcher
        self._max_batch_size = max_batch_size
        self._instances = instances
        self._max_queue_delay_seconds = max_queue_delay_seconds

    def seconds(self, ahead: int, images: int, priority: Priority) -> float:
        """Until so many new images are done behind `ahead` others of their kind, those that run among them.

        Interactive images overtake all bulk but what runs already, and what fills up the batches that they are in.
        """
        running, filling = 0.0, 0
        if priority == INTERACTIVE:
            running, filling = self._bulk_seconds(ahead + images), self._batcher.waiting_bulk
        wait = self._profile.wait_seconds(
            ahead, images, self._max_batch_size, self._instances, filling
        )
        return self._max_queue_delay_seconds + running + wait

    def _bulk_seconds(self, images: int) -> float:
        """What is left of the runs that have bulk, on the instances that are free first, as many as these images take.

        Of a run with other images, too, the bulk's share: the others are `ahead` already.
        """
        if not (runs := self._batcher.bulk_runs.copy().values()):
            return 0.0
        now = time.monotonic()
        left = [
            max(0.0, self._profile.seconds(run.images) - (now - run.began)) * run.bulk / run.images
            for run in runs
        ]
        free = [0.0] * (self._instances - len(left))
        batches = min(self._instances, math.ceil(images / self._max_batch_size)) or 1
        return sum(sorted(free + left)[:batches]) / batches
