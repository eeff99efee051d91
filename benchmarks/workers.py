"""Measures throughput and memory of the service with different numbers of workers, in turn.

PYTHONPATH=. .venv/test/bin/python benchmarks/workers.py [--workers 1 2] [--rounds 5]

Needs `wrk` and a quiet machine: workers gain nothing where other programs use the cores. Memory is
PSS: the processes that share a page count equal parts of it. Linux.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from built_in_service import run_built_in_models
from machine import ROOT, describe_machine, family, proportional_megabytes
from workloads import resnet20
from wrk import WrkResult, wrk_load

CONNECTIONS = (32, 64)
SECONDS = 5


@dataclass(frozen=True)
class WorkersLoad:
    load: WrkResult
    megabytes: float


def measure(workers: int, connections: int) -> WorkersLoad:
    workload = resnet20()
    path, bodies = f"/v1/models/{workload.model}/predict", workload.bodies(None)
    flags = ("--workers", str(workers), "--no-access-log")
    with run_built_in_models(ROOT, flags) as (port, pid):
        wrk_load(port, path, bodies, connections, 1)  # warm-up
        load = wrk_load(port, path, bodies, connections, SECONDS)
        return WorkersLoad(load, proportional_megabytes(family(pid)))


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
