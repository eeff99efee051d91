"""Measures the latency of a single client, compared with decoding and running in a loop."""

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
DEFAULT_THREADS = 0
DEFAULTS_METHOD = (
    "`wrk` with one connection. Resident runs with its defaults (`mode=auto`), and FastAPI with "
    "the default threads of ONNX Runtime, which spin. Decode + run in a loop has one thread or "
    "all, whichever is faster in the round. Measured in turn, {seconds:g} s per round after a "
    "warm-up, n = {rounds}; medians (minimum to maximum), differences round by round."
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


def measure_defaults(options: Options) -> None:
    """Measure ResNet-50 with the defaults of Resident, and FastAPI with ONNX Runtime's defaults."""
    peers = tuple(peer for peer in options.peers if peer.key == "fastapi")
    options = replace(options, seconds=min(options.seconds, 5), peers=peers)
    notes: list[str] = []
    rows = list(_rows(resnet50(), DEFAULT_THREADS, options, notes.append))
    method = DEFAULTS_METHOD.format(seconds=options.seconds, rounds=options.rounds)
    write_section("One client, defaults", [method, "", *table(HEAD, rows), "", *notes])


def _rows(
    workload: Workload, threads: int, options: Options, note: Callable[[str], None]
) -> Iterator[list[str]]:
    tried = (threads,) if threads else sorted({1, cores()})
    shown = str(threads or "default")
    limits, results = [], {side: [] for side in (OURS, *options.peers)}
    for number in range(options.rounds):
        limits.append(min(_decode_and_run(workload, each, options) for each in tried))
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
    yield [workload.title, "decode + ONNX Runtime, no HTTP", shown, spread(limit), "", ""]
    for side, rounds in results.items():
        p50 = np.array([each.p50 for each in rounds])
        p99 = f"{np.median([each.p99 for each in rounds]):.2f}"
        yield [workload.title, side.name, shown, spread(p50), spread(p50 - limit), p99]


def _decode_and_run(workload: Workload, threads: int, options: Options) -> float:
    """Median milliseconds of decoding and running one image in a loop."""
    flags = ("--decode", "--alone", str(threads), "--seconds", str(options.seconds))
    milliseconds: float = run_raw(workload, *flags)["milliseconds"]
    return milliseconds


def _alone(side: Side, workload: Workload, threads: int, options: Options) -> WrkResult:
    setup = replace(side.setups[-1], workers=1, threads=threads)
    with running(side, workload, setup, options.service if side is OURS else ()) as server:
        path, bodies = side.path_of(workload), side.bodies(workload)
        wrk_load(server.port, path, bodies, 1, options.warm_up_seconds)
        return wrk_load(server.port, path, bodies, 1, options.seconds)
