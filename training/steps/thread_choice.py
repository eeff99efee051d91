"""Chooses the number of CPU threads of a training by timing its steps on this machine.

Torch takes one thread per core that it sees. In a container with fewer CPUs, or beside other
programs, the threads wait for each other, and a step can take ten times as long as with one.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch.nn import functional

from training.learning.distributed import DistributedProcess
from training.learning.networks import build_network
from training.run.checkpoint import CHECKPOINT_FILE
from training.run.config import RunConfig
from training.run.directory import Run, damaged_file_error

THREADS_FILE: Final = "threads.json"
MIN_GAIN: Final = 1.1
"""More threads must be faster by this factor, so that noise does not choose them."""
REPEATS: Final = 3
PROBE_IMAGES: Final = 4
MAX_STEP_SECONDS: Final = 0.5
"""If a step takes longer, only a part of the batch is timed."""


def choose_threads(run: Run, classes: int, process: DistributedProcess) -> str | None:
    """Set the number of threads, and return a message for the user if it was chosen.

    A run keeps its choice in `threads.json`: a resumed run takes the same number, because the
    number of threads changes the bits of the weights.

    Raises:
        RunError: `threads.json` is damaged.
    """
    available = process.available_threads
    if available is None:
        return None
    torch.set_num_threads(available)  # an earlier training of this process may have chosen fewer
    if run.has(THREADS_FILE):
        try:
            chosen = int(run.read_json(THREADS_FILE, "train")["threads"])
            torch.set_num_threads(chosen)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged_file_error(run.path / THREADS_FILE, error) from None
        return f"threads: {chosen}, as when the run began"
    if run.has(CHECKPOINT_FILE):  # it began with the number that torch chose
        return None
    if available == 1:
        run.write_json(THREADS_FILE, {"threads": 1, "seconds_per_step": {}})
        return None
    seconds = time_counts(doubled(1, available), StepTimer(run.config, classes))
    chosen = fastest(seconds)
    torch.set_num_threads(chosen)
    run.write_json(THREADS_FILE, {"threads": chosen, "seconds_per_step": seconds})
    times = ", ".join(f"{1000 * each:.0f} ms with {threads}" for threads, each in seconds.items())
    return f"threads: {chosen} of {available} (a step takes {times}; --threads N sets it)"


def doubled(first: int, last: int) -> list[int]:
    """`first`, twice that, … and `last`."""
    counts = [first]
    while counts[-1] < last:
        counts.append(min(2 * counts[-1], last))
    return counts


def time_counts(counts: Sequence[int], measure_seconds: Callable[[int], float]) -> dict[int, float]:
    """Time each number of threads or workers in order. Stop when a larger one is not faster."""
    seconds: dict[int, float] = {}
    for previous, count in zip((None, *counts), counts, strict=False):
        seconds[count] = measure_seconds(count)
        if previous is not None and seconds[count] * MIN_GAIN > seconds[previous]:
            break
    return seconds


def fastest(seconds: Mapping[int, float]) -> int:
    """The last number if it is faster than the one before by MIN_GAIN, else the one before."""
    *others, last = seconds
    if not others:
        return last
    return last if seconds[last] * MIN_GAIN <= seconds[others[-1]] else others[-1]


class StepTimer:
    """Times forward and backward passes of a run's network on random images."""

    def __init__(self, config: RunConfig, classes: int) -> None:
        spec = config.preprocessing
        with torch.random.fork_rng(devices=[]):  # the run's own random numbers stay the same
            self._network = build_network(config.architecture, classes)
            self._network = self._network.to(memory_format=torch.channels_last)
            images = max(PROBE_IMAGES, config.recipe.batch_size // config.recipe.accumulation)
            size = (images, 3, spec.crop_height, spec.crop_width)
            self._images = torch.rand(size).contiguous(memory_format=torch.channels_last)
        self._labels = torch.zeros(len(self._images), dtype=torch.long)

    def __call__(self, threads: int) -> float:
        """Return the seconds of the fastest of some steps with this number of threads."""
        torch.set_num_threads(threads)
        if threads == 1:
            self.step(PROBE_IMAGES)
            affordable = int(PROBE_IMAGES * MAX_STEP_SECONDS / self.step(PROBE_IMAGES))
            count = max(PROBE_IMAGES, min(affordable, len(self._images)))
            self._images, self._labels = self._images[:count], self._labels[:count]
        self.step(None)
        return min(self.step(None) for _ in range(REPEATS))

    def step(self, images: int | None) -> float:
        """Compute one step with this number of images, all if None. Return its seconds."""
        began = time.perf_counter()
        self._network.zero_grad()
        logits = self._network(self._images[:images])
        loss = functional.cross_entropy(logits, self._labels[:images])
        loss.backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - began
