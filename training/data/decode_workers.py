"""Chooses how many threads and processes decode images on this machine."""

import os
from typing import Final

MAX_DECODE_THREADS: Final = 8
"""Limits memory on machines with many CPUs: each thread may hold a large photograph."""


def usable_cpus() -> int:
    """The number of CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_threads(workers: int | None) -> int:
    """Number of decoding threads for a value of `--workers`, if nothing else computes."""
    return min(usable_cpus(), MAX_DECODE_THREADS) if workers is None else max(1, workers)
