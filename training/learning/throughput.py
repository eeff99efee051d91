"""Throughput and estimate: how fast a run goes, how long it will take, and how much memory it holds."""

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
_MEMORY: Final = 0.05  # weight of the newest step in the running means


@dataclass(frozen=True)
class RunEstimate:
    """What a whole run will take: seconds from now, and the most memory so far (bytes; on a GPU the GPU's)."""

    seconds: float
    peak_bytes: int


class ThroughputMeter:
    """Running means of a step's seconds and of the part of them that waits for images; the first steps do not count."""

    def __init__(self) -> None:
        self.steps = 0
        self.step_seconds = 0.0
        self.input_seconds = 0.0
        self.images_per_second = 0.0
        self.validation_seconds = 0.0

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, measuring how long each takes to come and to be used."""
        source = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(source, None)
            if batch is None:
                return
            ready = time.perf_counter()
            yield batch
            self._count(time.perf_counter() - began, ready - began, batch.size)

    @property
    def input_share(self) -> float:
        """The part of a step that waits for its images."""
        return self.input_seconds / self.step_seconds if self.step_seconds else 0.0

    def seconds_left(self, steps: float, validations: int) -> float:
        """For so many more steps and validations."""
        return steps * self.step_seconds + validations * self.validation_seconds

    def _count(self, seconds: float, waited: float, images: int) -> None:
        self.steps += 1
        weight = (
            1.0
            if self.steps <= _WARM_UP_STEPS + 1
            else max(_MEMORY, 1 / (self.steps - _WARM_UP_STEPS))
        )
        self.step_seconds += weight * (seconds - self.step_seconds)
        self.input_seconds += weight * (waited - self.input_seconds)
        self.images_per_second += weight * (images / seconds - self.images_per_second)


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has held: the GPU's on a GPU, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
