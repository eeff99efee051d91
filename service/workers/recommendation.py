"""Decides from measurements of the warm-up whether more workers would serve a model faster."""

from dataclasses import dataclass
from math import ceil
from typing import Final

REQUEST_SECONDS: Final = 1.5e-4
"""CPU time of Python for a request with one small image (`benchmarks/RESULTS.md`)."""
MAX_PYTHON_SHARE: Final = 0.25
"""Share of a core that Python may take in one process.

Python runs one thread at a time. Above this share, threads that have finished a run wait for the
interpreter lock. At 0.4 (ResNet-20 on two cores), two processes had 1.2 times the throughput of
one.
"""


@dataclass(frozen=True)
class WorkerAdvice:
    """How many workers to use, and the images per second that the CPUs then allow at most."""

    workers: int
    images_per_second: float


def recommend_workers(seconds_per_image: float, cpus: int) -> WorkerAdvice | None:
    """Advise on a model that is served by one worker; None if one is enough.

    Args:
        seconds_per_image: CPU time of a run for one image of its best batch.
        cpus: CPUs that the service may use.
    """
    images_per_second = cpus / (seconds_per_image + REQUEST_SECONDS)
    python_share = images_per_second * REQUEST_SECONDS
    workers = min(cpus, ceil(python_share / MAX_PYTHON_SHARE))
    return WorkerAdvice(workers, images_per_second) if workers > 1 else None
