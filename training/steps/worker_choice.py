"""Chooses the number of processes that decode training images, by timing batches.

Worker processes decode while the network computes. Whether that is faster depends on the images,
the network, the disk and the free CPUs. The number does not change the batches.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from training.data.decode_workers import usable_cpus
from training.learning.distributed import DistributedProcess
from training.run.data import RunData
from training.run.directory import Run, damaged_file_error
from training.steps.thread_choice import PROBE_IMAGES, StepTimer, doubled, fastest, time_counts

WORKERS_FILE: Final = "workers.json"
BATCHES: Final = 8
"""Number of timed batches per number of workers. The time includes the start of the workers."""
MAX_BATCH_SECONDS: Final = 0.25
"""If a batch takes longer without workers, only a part of it is timed."""


def choose_workers(run: Run, data: RunData, process: DistributedProcess) -> tuple[int, str | None]:
    """Return the number of worker processes, and a message for the user if it was chosen.

    A run keeps its choice in `workers.json`. Nothing is chosen if `--workers` gives the number, or
    if all pixels are in memory.

    Raises:
        RunError: `workers.json` is damaged.
    """
    if data.uncropped_pixels is not None:
        return 0, None
    if process.workers is not None:
        return process.workers, None
    if run.has(WORKERS_FILE):
        try:
            chosen = max(0, int(run.read_json(WORKERS_FILE, "train")["workers"]))
        except (KeyError, TypeError, ValueError) as error:
            raise damaged_file_error(run.path / WORKERS_FILE, error) from None
        message = f"workers: {chosen}, as when the run began"
    else:
        with torch.random.fork_rng(devices=[]):  # the run's own random numbers stay the same
            seconds = time_workers(run, data, process)
        chosen = fastest(seconds)
        times = ", ".join(f"{1000 * each:.0f} ms with {count}" for count, each in seconds.items())
        message = (
            f"workers: {chosen} (to decode a sample batch and train on it takes {times}; "
            "--workers N sets it)"
        )
        if process.is_main:
            run.write_json(WORKERS_FILE, {"workers": chosen, "seconds_per_batch": seconds})
    return int(process.broadcast_text(str(chosen))), message


def time_workers(run: Run, data: RunData, process: DistributedProcess) -> dict[int, float]:
    """Seconds of a batch by number of workers: 0, 2, 4, … until more workers are not faster."""
    counts = worker_counts(max(1, usable_cpus() // process.world_size))
    order = torch.randperm(len(data.training_indices), generator=torch.Generator().manual_seed(0))
    compute = _computation(run, data, process)

    def time_batches(workers: int, batches: Sequence[Tensor]) -> float:
        began = time.perf_counter()
        for pixels in data.streamed_source(process.device, workers).stream(batches):
            compute(len(pixels))
        return (time.perf_counter() - began) / len(batches)

    time_batches(0, [order[:PROBE_IMAGES]])
    affordable = PROBE_IMAGES * MAX_BATCH_SECONDS / time_batches(0, [order[-PROBE_IMAGES:]])
    size = max(PROBE_IMAGES, min(int(affordable), run.config.recipe.batch_size))
    # Each number gets other images, which the file cache does not hold from an earlier timing.
    needed = size * BATCHES * len(counts)
    sample = order.repeat(-(-needed // len(order)))[:needed].reshape(len(counts), -1)
    shares = dict(zip(counts, sample, strict=True))
    return time_counts(counts, lambda workers: time_batches(workers, shares[workers].split(size)))


def worker_counts(cpus: int) -> list[int]:
    """The numbers of workers to try with this many CPUs: 0, 2, 4 and so on."""
    return [0, *doubled(min(2, cpus), cpus)]


def _computation(run: Run, data: RunData, process: DistributedProcess) -> Callable[[int], object]:
    """Return a function that computes a step with this number of images, as training does."""
    if process.device.type == "cpu":
        return StepTimer(run.config, len(data.images.class_names)).step
    return lambda _: None  # a GPU computes while the CPU decodes
