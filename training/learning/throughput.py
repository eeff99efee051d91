"""Speed of a run, and the estimate of its duration and memory."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from training.learning.batches import Batch

ESTIMATE_STEPS: Final = 20
_WARM_UP_STEPS: Final = 2
_NEWEST_WEIGHT: Final = 0.05  # weight of the newest step in the moving averages


@dataclass(frozen=True)
class RunEstimate:
    """Estimate of a whole run.

    Attributes:
        seconds: Remaining seconds.
        peak_bytes: Peak memory so far: of the GPU, or resident memory of a CPU run.
    """

    seconds: float
    peak_bytes: int


class ThroughputMeter:
    """Moving averages of the duration of a step and of its wait for images.

    The first steps are left out: they compile, allocate and fill caches.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.step_seconds = 0.0
        self.input_seconds = 0.0
        self.images_per_second = 0.0
        self.validation_seconds = 0.0

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and measure how long each takes to load and to train on."""
        source = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(source, None)
            if batch is None:
                return
            loaded = time.perf_counter()
            yield batch
            self._record(time.perf_counter() - start, loaded - start, batch.size)

    @property
    def input_share(self) -> float:
        """Fraction of a step that waits for images."""
        return self.input_seconds / self.step_seconds if self.step_seconds else 0.0

    def seconds_left(self, steps: float, validations: int) -> float:
        return steps * self.step_seconds + validations * self.validation_seconds

    def _record(self, seconds: float, input_seconds: float, images: int) -> None:
        self.steps += 1
        weight = (
            1.0
            if self.steps <= _WARM_UP_STEPS + 1
            else max(_NEWEST_WEIGHT, 1 / (self.steps - _WARM_UP_STEPS))
        )
        self.step_seconds += weight * (seconds - self.step_seconds)
        self.input_seconds += weight * (input_seconds - self.input_seconds)
        self.images_per_second += weight * (images / seconds - self.images_per_second)


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process in bytes: allocated on the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
