"""Throughput and memory of the service by its number of workers, in turn.

PYTHONPATH=. .venv/test/bin/python benchmarks/workers.py [--workers 1 2] [--rounds 5]

Needs `wrk` and a quiet machine: workers gain nothing where other programs use the cores. Memory is
PSS: each page counts for the processes that share it in equal parts. Linux.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from machine import ROOT, describe_machine, family, free_port, proportional_megabytes
from startup import is_ready
from workloads import resnet20
from wrk import WrkResult, wrk_load

CONNECTIONS = (32, 64)
SECONDS = 5


@dataclass(frozen=True)
class Measurement:
    load: WrkResult
    megabytes: float


@contextlib.contextmanager
def running(workers: int) -> Iterator[tuple[int, int]]:
    """The service with the built-in models; its port and its process."""
    port = free_port()
    with tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "service", "--port", str(port), "--store", empty),
                *("--workers", str(workers), "--no-access-log"),
            ],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not is_ready(port):
                if process.poll() is not None:
                    raise SystemExit(f"the service ended with {process.returncode}")
                time.sleep(0.05)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait()


def measure(workers: int, connections: int) -> Measurement:
    workload = resnet20()
    path, bodies = f"/v1/models/{workload.model}/predict", workload.bodies(None)
    with running(workers) as (port, pid):
        wrk_load(port, path, bodies, connections, 1)  # warm-up
        load = wrk_load(port, path, bodies, connections, SECONDS)
        return Measurement(load, proportional_megabytes(family(pid)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(describe_machine(["onnxruntime", "uvloop"]))
    for connections in CONNECTIONS:
        rounds = [
            [measure(workers, connections) for workers in options.workers]
            for _ in range(options.rounds)
        ]
        for workers, measured in zip(options.workers, zip(*rounds, strict=True), strict=True):
            speeds = np.array([each.load.images_per_second for each in measured])
            ratios = speeds / [row[0].load.images_per_second for row in rounds]
            least, median, most = np.percentile(ratios, (25, 50, 75))
            print(
                f"{connections} connections, workers={workers}: {np.median(speeds):.0f} images/s, "
                f"{median:.2f} ({least:.2f} to {most:.2f}) of workers={options.workers[0]}, "
                f"p99 {np.median([each.load.p99 for each in measured]):.1f} ms, "
                f"PSS {np.median([each.megabytes for each in measured]):.0f} MB, "
                f"failed {sum(each.load.failed for each in measured)}"
            )


if __name__ == "__main__":
    main()
