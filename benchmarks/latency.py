"""Latency of one client alone, compared with decoding and running one image in a loop."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from contenders import run_raw
from machine import cores
from options import Options
from results import spread, table, write_section
from side_process import running
from sides import OURS, Side, SideError
from workloads import Workload, resnet20, resnet50
from wrk import WrkResult, wrk_load

HEAD = ("model", "side", "threads of a run", "p50 ms", "more than decode + run, ms", "p99 ms")
METHOD = (
    "`wrk` with one connection, {seconds:g} s per round after a warm-up, compared with the median "
    "of decode + run in a loop with the same threads and without HTTP. LitServe, mosec and Ray "
    "Serve wait up to 5 ms for more images, as under full load. Measured in turn, n = {rounds}; "
    "medians (minimum to maximum), differences round by round."
)


def measure(options: Options) -> None:
    """Measure both models, with one thread per run and with all. Short rounds are sufficient."""
    options = replace(options, seconds=min(options.seconds, 5), rounds=min(options.rounds, 3))
    rows, notes = [], []
    for workload in (resnet20(), resnet50()):
        for threads in sorted({1, cores()}):
            rows += list(_rows(workload, threads, options, notes.append))
    lines = [
        METHOD.format(seconds=options.seconds, rounds=options.rounds),
        "",
        *table(HEAD, rows),
        "",
        *notes,
    ]
    write_section("One client at a time", lines)


def _rows(
    workload: Workload, threads: int, options: Options, note: Callable[[str], None]
) -> Iterator[list[str]]:
    limits, results = [], {side: [] for side in (OURS, *options.peers)}
    for number in range(options.rounds):
        limits.append(
            run_raw(
                workload, "--decode", "--alone", str(threads), "--seconds", str(options.seconds)
            )["milliseconds"]
        )
        for side in list(results):
            try:
                results[side].append(_alone(side, workload, threads, options))
            except SideError as error:
                note(f"Missing: {side.name} with {threads} threads {error}.\n")
                del results[side]
                continue
            print(
                f"{number + 1}/{options.rounds}  {side.name}: {results[side][-1].p50:.2f} ms; "
                f"limit {limits[-1]:.2f} ms",
                flush=True,
            )
    limit = np.array(limits)
    yield [workload.title, "decode + ONNX Runtime, no HTTP", str(threads), spread(limit), "", ""]
    for side, rounds in results.items():
        p50 = np.array([each.p50 for each in rounds])
        p99 = f"{np.median([each.p99 for each in rounds]):.2f}"
        yield [workload.title, side.name, str(threads), spread(p50), spread(p50 - limit), p99]


def _alone(side: Side, workload: Workload, threads: int, options: Options) -> WrkResult:
    setup = replace(side.setups[-1], workers=1, threads=threads)
    with running(side, workload, setup, options.service if side is OURS else ()) as server:
        path, bodies = side.path_of(workload), side.bodies(workload)
        wrk_load(server.port, path, bodies, 1, options.warm_up_seconds)
        return wrk_load(server.port, path, bodies, 1, options.seconds)
