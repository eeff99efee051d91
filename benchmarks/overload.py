"""Measures overload: how many requests are answered, how soon others are rejected, and memory.

As a script it is the load generator, in a process of its own so that it does not slow down the
measurement. It prints one line of JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from machine import ROOT, resident_megabytes
from options import Options
from results import spread, table, write_section
from side_process import RunningSide, running
from sides import OURS
from workloads import Workload, resnet20, resnet50
from wrk import wrk_load

from service.loadtest.load_generator import Load, run_load
from service.loadtest.load_report import make_report
from service.loadtest.target import make_requests, parse_target, read_images

LOADS = ((resnet50, 16, 10), (resnet20, 64, 2))
"""Workload, connections that reach the peak, and the multiple of the peak that is offered."""
MAX_CONNECTIONS = 4000
TIMEOUT_SECONDS = 40
WARM_UP_SHARE = 1 / 12
REJECTED = "429 overloaded"
HEAD = (
    "model",
    "offered, images/s",
    "peak",
    "answered (200)",
    "of the peak",
    "200: p50, p99 ms",
    "rejected (429)",
    "429: p99 ms",
    "MB after a quarter, at the end, maximum",
    "other answers",
    "cores of the generator",
)
METHOD = (
    "Resident alone. The peak is the full load of `wrk` for {seconds:g} s. Then requests arrive "
    "at random moments (Poisson) for {overload:g} s at a multiple of that rate, from "
    "`service.loadtest` on the same cores. Times count from when a request was due. The server is "
    "restarted for each load, n = {rounds}; medians (minimum to maximum), MB are resident."
)


@dataclass(frozen=True)
class Overload:
    """One round: the peak, the generator's report, and the server's resident MB over time."""

    peak: float
    report: dict[str, Any]
    megabytes: list[float]

    @property
    def goodput(self) -> float:
        """Images answered per second."""
        return float(self.report["images"] / self.report["duration_seconds"])

    @property
    def rejected_per_second(self) -> float:
        return float(self.report["errors"].get(REJECTED, 0) / self.report["duration_seconds"])

    def percentile_ms(self, answers: str, percentile: str) -> float:
        """A latency percentile of the `latency` or `refused` requests; NaN without any."""
        latency = self.report[answers]
        return float(latency["percentiles"][percentile]) if latency else float("nan")


def measure(options: Options) -> None:
    rows = []
    options = options.with_seconds_times(2)
    for make, connections, factor in LOADS:
        workload, rounds = make(), []
        for number in range(options.overload_rounds):
            rounds.append(_overload(workload, connections, factor, options))
            print(
                f"{number + 1}/{options.overload_rounds}  {workload.title}: "
                f"{rounds[-1].goodput:.1f} of {rounds[-1].peak:.1f}",
                flush=True,
            )
        rows.append(_row(f"{workload.title}, {factor} x", rounds))
    method = METHOD.format(
        seconds=options.seconds, overload=options.overload_seconds, rounds=options.overload_rounds
    )
    write_section("Overload", [method, "", *table(HEAD, rows), ""])


def _overload(workload: Workload, connections: int, factor: int, options: Options) -> Overload:
    path, bodies = OURS.path_of(workload), OURS.bodies(workload)
    with running(OURS, workload, OURS.setups[0], options.service) as server:
        wrk_load(server.port, path, bodies, connections, options.warm_up_seconds)
        peak = wrk_load(server.port, path, bodies, connections, options.seconds).images_per_second
        if not peak:
            raise SystemExit(
                f"no request was answered within {options.seconds:g} s; raise --seconds"
            )
        url = f"http://127.0.0.1:{server.port}{path}"
        command = [sys.executable, __file__, url, str(bodies.folder)]
        command += ["--rate", str(factor * peak), "--seconds", str(options.overload_seconds)]
        return Overload(peak, *_watch(command, server, options.overload_seconds))


def _watch(
    command: list[str], server: RunningSide, seconds: float
) -> tuple[dict[str, Any], list[float]]:
    """The generator's report, and the server's resident MB twice a second meanwhile."""
    megabytes, began = [], time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as generator:
        while generator.poll() is None:
            if time.monotonic() - began < seconds:
                megabytes.append(resident_megabytes(server.pid))
            time.sleep(0.5)
        assert generator.stdout  # noqa: S101  it is a pipe
        output = generator.stdout.read()
    if generator.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {generator.returncode}")
    return json.loads(output), megabytes


def _row(name: str, rounds: list[Overload]) -> list[str]:
    others: dict[str, int] = {}
    for each in rounds:
        for kind, count in each.report["errors"].items():
            if kind != REJECTED:
                others[kind] = others.get(kind, 0) + count
    answered_ms = [
        np.median([each.percentile_ms("latency", percentile) for each in rounds])
        for percentile in ("p50", "p99")
    ]
    megabytes = np.median(
        [
            [each.megabytes[len(each.megabytes) // 4], each.megabytes[-1], max(each.megabytes)]
            for each in rounds
        ],
        axis=0,
    )
    return [
        name,
        spread(np.array([each.report["offered"] for each in rounds]), "{:.0f}"),
        spread(np.array([each.peak for each in rounds]), "{:.1f}"),
        spread(np.array([each.goodput for each in rounds]), "{:.1f}"),
        spread(np.array([each.goodput / each.peak for each in rounds])),
        ", ".join(f"{each:.0f}" for each in answered_ms),
        spread(np.array([each.rejected_per_second for each in rounds]), "{:.0f}"),
        spread(np.array([each.percentile_ms("refused", "p99") for each in rounds]), "{:.1f}"),
        ", ".join(f"{each:.0f}" for each in megabytes),
        ", ".join(f"{kind}: {count}" for kind, count in sorted(others.items())) or "none",
        spread(np.array([each.report["cores"] for each in rounds])),
    ]


def generate_load(url: str, folder: Path, rate: float, seconds: float) -> dict[str, Any]:
    """Send the images of a folder at a rate and report on all but the first twelfth."""
    target = parse_target(url, None, {})
    requests = make_requests(target, read_images([folder]), 1)
    warm_up = WARM_UP_SHARE * seconds
    load = Load(
        target.address, requests, MAX_CONNECTIONS, rate, warm_up, seconds - warm_up, TIMEOUT_SECONDS
    )
    report = make_report(uvloop.run(run_load(load)), load.duration_seconds)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return asdict(report) | {
        "offered": report.requests / load.duration_seconds,
        "cores": (usage.ru_utime + usage.ru_stime) / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    print(
        json.dumps(
            generate_load(arguments.url, arguments.folder, arguments.rate, arguments.seconds)
        )
    )


if __name__ == "__main__":
    main()
