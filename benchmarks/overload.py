"""Far more than can be carried: how much is still answered, how soon the rest is refused, and whether memory stays flat."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from load import closed
from machine import ROOT, resident_megabytes
from open_load import BROKEN, MOST_CONNECTIONS, UNANSWERED, UNSENT
from options import Options
from results import spread, table, write_section
from sides import OURS, Server, running
from workloads import Workload, resnet20, resnet50

LOADS = (
    (resnet50, 16, 10),
    (resnet20, 64, 2),
)  # connections that find the peak, and how many times that is offered
REFUSED = "429"
HEAD = (
    "model",
    "offered, images/s",
    "peak",
    "answered (200)",
    "of the peak",
    "200: p50, p99 ms",
    "refused (429)",
    "429: p99 ms",
    "MB after a quarter, at the end, most",
    "other answers",
    "cores of the generator",
)
METHOD = (
    "Ours alone. The peak is the full load of `wrk` for {seconds:g} s; then requests come at random moments (Poisson) for "
    "{overload:g} s at so many times that rate, whatever becomes of them, from a generator on the same cores, over as many "
    "connections as it takes. Times count from when a request was due. Each load meets a server started anew, n = {turns}; medians "
    "(least to most), MB are resident."
)


@dataclass(frozen=True)
class Overload:
    """One turn."""

    peak: float
    report: dict[str, Any]
    megabytes: list[float]

    @property
    def goodput(self) -> float:
        """Images answered a second."""
        return float(self.report["rates"].get("200", 0.0))


def measure(options: Options) -> None:
    """Both models."""
    rows = []
    options = options.lasting(2)
    for make, connections, factor in LOADS:
        workload, turns = make(), []
        for turn in range(options.overload_turns):
            turns.append(_overload(workload, connections, factor, options))
            last = turns[-1]
            print(
                f"{turn + 1}/{options.overload_turns}  {workload.title}: {last.goodput:.1f} of {last.peak:.1f}",
                flush=True,
            )
        rows.append(_row(f"{workload.title}, {factor} x", turns))
    method = METHOD.format(
        seconds=options.seconds, overload=options.overload_seconds, turns=options.overload_turns
    )
    write_section("Overload", [method, "", *table(HEAD, rows), ""])


def _overload(workload: Workload, connections: int, factor: int, options: Options) -> Overload:
    path, bodies = OURS.path_of(workload), OURS.bodies(workload)
    with running(OURS, workload, OURS.setups[0], options.service) as server:
        closed(server.port, path, bodies, connections, options.warm_up_seconds)
        peak = closed(server.port, path, bodies, connections, options.seconds).images_per_second
        if not peak:
            raise SystemExit(
                f"nothing was answered within {options.seconds:g} s; say more --seconds"
            )
        command = [
            sys.executable,
            str(ROOT / "benchmarks/open_load.py"),
            str(server.port),
            path,
            str(bodies.folder),
            bodies.content_type,
        ]
        command += ["--rate", str(factor * peak), "--seconds", str(options.overload_seconds)]
        return Overload(peak, *_watch(command, server, options.overload_seconds))


def _watch(
    command: list[str], server: Server, seconds: float
) -> tuple[dict[str, Any], list[float]]:
    """The generator's report, and the server's memory meanwhile, twice a second."""
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


def _row(name: str, turns: list[Overload]) -> list[str]:
    reports = [turn.report for turn in turns]
    counts = {
        status: sum(report["counts"].get(status, 0) for report in reports)
        for report in reports
        for status in report["counts"]
    }
    words = {
        str(BROKEN): "broken connections",
        str(UNANSWERED): "never answered",
        str(UNSENT): f"not sent, {MOST_CONNECTIONS} connections were waiting",
    }
    other = [
        f"{words.get(status, status)}: {count}"
        for status, count in sorted(counts.items())
        if status not in {"200", REFUSED}
    ]
    late = [
        np.median([report[quantile].get("200", np.nan) for report in reports])
        for quantile in ("p50", "p99")
    ]
    refused = np.array([report["p99"].get(REFUSED, np.nan) for report in reports])
    memory = np.median(
        [
            [each.megabytes[len(each.megabytes) // 4], each.megabytes[-1], max(each.megabytes)]
            for each in turns
        ],
        axis=0,
    )
    return [
        name,
        spread(np.array([report["offered"] for report in reports]), "{:.0f}"),
        spread(np.array([turn.peak for turn in turns]), "{:.1f}"),
        spread(np.array([turn.goodput for turn in turns]), "{:.1f}"),
        spread(np.array([turn.goodput / turn.peak for turn in turns])),
        ", ".join(f"{each:.0f}" for each in late),
        spread(np.array([report["rates"].get(REFUSED, 0.0) for report in reports]), "{:.0f}"),
        spread(refused, "{:.1f}"),
        ", ".join(f"{each:.0f}" for each in memory),
        ", ".join(other) or "none",
        spread(np.array([report["cores"] for report in reports])),
    ]
