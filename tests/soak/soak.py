"""`make soak`: serve a mixed load for half an hour and see what grows.

Writes `build/soak/soak.csv` and `build/soak/soak.svg`: memory, descriptors and threads of the
service, and the median and 95th percentile of the latency of one client beside the load. The first
third fills caches and pools; the exit code is 1 if something grows after it.
"""

import argparse
import asyncio
import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import linear_regression, median

import matplotlib.pyplot as plt
from colour_model import make_store, publish
from server_process import ServerProcess, running
from storm import IMAGES, Client, Resources, Storm

OUTPUT = Path(__file__).parents[2] / "build/soak"
SAMPLE_SECONDS = 5.0
STORM_REQUESTS = 40
PAUSE_SECONDS = 0.2
MAX_GROWTH = {"memory_mib": 0.05, "descriptors": 0.5, "threads": 0.2}
"""Largest allowed growth of the trend after the first third. Descriptors vary with connections."""


@dataclass(frozen=True)
class Sample:
    """One row of the file."""

    seconds: float
    memory_mib: float
    descriptors: int
    threads: int
    median_ms: float
    p95_ms: float
    answers: int


async def measure(server: ServerProcess, minutes: float) -> list[Sample]:
    samples: list[Sample] = []
    storm = Storm(server.address, seed=0)
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            storm.seed += 1
            await storm.run(STORM_REQUESTS)
            await asyncio.sleep(PAUSE_SECONDS)

    loading = asyncio.create_task(load())
    began = time.monotonic()
    async with Client(server.address, storm.answers) as client:
        while (elapsed := time.monotonic() - began) < minutes * 60:
            latencies = await ask(client, SAMPLE_SECONDS)
            held = Resources.of(server)
            samples.append(
                Sample(
                    seconds=round(elapsed, 1),
                    memory_mib=round(held.memory_kib / 1024, 2),
                    descriptors=held.descriptors,
                    threads=held.threads,
                    median_ms=round(median(latencies), 2),
                    p95_ms=round(sorted(latencies)[int(0.95 * len(latencies))], 2),
                    answers=storm.answers.total(),
                )
            )
            if loading.done():
                loading.result()  # raises the failures of clients
    stop.set()
    await loading
    return samples


async def ask(client: Client, seconds: float) -> list[float]:
    """Milliseconds of requests that follow each other for some seconds."""
    latencies = []
    ends = time.monotonic() + seconds
    while not latencies or time.monotonic() < ends:
        began = time.monotonic()
        await client.send(IMAGES["red"])
        await client.expect("red")
        latencies.append((time.monotonic() - began) * 1e3)
        await asyncio.sleep(0.02)
    return latencies


def growth(samples: Sequence[Sample], name: str) -> float:
    """How much a value grows from its start, by a line through all samples."""
    times = [sample.seconds for sample in samples]
    slope, intercept = linear_regression(times, [getattr(each, name) for each in samples])
    start = intercept + slope * times[0]
    return slope * (times[-1] - times[0]) / start


def write(samples: Sequence[Sample]) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(Sample)]
    with (OUTPUT / "soak.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(names)
        rows.writerows(map(astuple, samples))
    figure, axes = plt.subplots(5, 1, figsize=(8, 10), sharex=True)
    minutes = [sample.seconds / 60 for sample in samples]
    for axis, name in zip(axes, names[1:6], strict=True):
        axis.plot(minutes, [getattr(sample, name) for sample in samples])
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(OUTPUT / "soak.svg")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store")
        publish(store)
        limits = ("--max-body-bytes", 400_000, "--body-timeout-seconds", 5, "--no-access-log")
        with running("--store", store.root, "--no-builtin", *limits) as server:
            samples = asyncio.run(measure(server.announced(), minutes))
            errors = server.stderr.text.count("Traceback")
    write(samples)
    steady = samples[len(samples) // 3 :]
    grown = {name: growth(steady, name) for name in MAX_GROWTH}
    for name, share in grown.items():
        last = getattr(steady[-1], name)
        sys.stdout.write(f"{name:12} {last:8} at the end, trend {share:+.1%}\n")
    times = (
        f"{median(each.median_ms for each in part):.1f}" for part in (steady[:10], steady[-10:])
    )
    sys.stdout.write(f"median ms    {' -> '.join(times)}\n")
    sys.stdout.write(f"answers      {samples[-1].answers:,}, {errors} tracebacks; see {OUTPUT}\n")
    return int(errors > 0 or any(grown[name] > most for name, most in MAX_GROWTH.items()))


if __name__ == "__main__":
    sys.exit(main())
