"""Measures the whole service over HTTP with several numbers of workers."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from model_store.open_store import StoreLocation
from service.loadtest.errors import MeasurementError
from service.loadtest.load_generator import Load, run_load
from service.loadtest.load_report import make_report
from service.loadtest.settings_search import MIN_GAIN
from service.loadtest.target import builtin_image, make_requests, parse_target

MIN_CONNECTIONS: Final = 32
WARM_UP_SECONDS: Final = 0.5
MIN_SECONDS: Final = 1.0
TIMEOUT_SECONDS: Final = 30.0
STOP_SECONDS: Final = 60.0
ROUNDS: Final = 2
"""Every round measures each number once, so that other load affects all numbers equally."""
MAX_REASON_CHARACTERS: Final = 500


@dataclass(frozen=True)
class TunedModel:
    """A version whose tuned settings are in the cache, so that the service uses them.

    Attributes:
        store: The model store.
        cache: The cache directory.
        model: The model.
        version: Its version.
        input_side: The shorter side of its input in pixels.
        in_flight: Images that keep all instances busy.
    """

    store: StoreLocation
    cache: Path
    model: str
    version: int
    input_side: int
    in_flight: int


@dataclass(frozen=True)
class WorkerMeasurement:
    """Throughput and latency of the service over HTTP with this number of workers."""

    workers: int
    images_per_second: float
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        noun = "worker" if self.workers == 1 else "workers"
        return (
            f"{self.workers} {noun}: {self.images_per_second:,.1f} images/s over HTTP, "
            f"p50 {self.p50_ms:.2f} ms, p99 {self.p99_ms:.2f} ms"
        )


def list_worker_counts(cpus: int) -> list[int]:
    """Numbers of workers to measure: 1, 2, 4 and so on, up to one per CPU."""
    powers = [1 << power for power in range(cpus.bit_length()) if 1 << power < cpus]
    return [*powers, cpus]


def measure_workers(
    tuned: TunedModel, counts: Sequence[int], seconds: float
) -> list[WorkerMeasurement]:
    """Measure each number `ROUNDS` times and keep the better result. Raises MeasurementError."""
    best: dict[int, WorkerMeasurement] = {}
    seconds = max(MIN_SECONDS, seconds)
    for _ in range(ROUNDS):
        for workers in counts:
            with _running_service(tuned, workers) as address:
                measured = _measure(tuned, address, workers, seconds)
            before = best.get(workers, measured)
            best[workers] = max(before, measured, key=lambda each: each.images_per_second)
    return list(best.values())


def choose_workers(measured: Sequence[WorkerMeasurement]) -> WorkerMeasurement:
    """The fewest workers with nearly the best throughput."""
    best = max(each.images_per_second for each in measured)
    close = [each for each in measured if MIN_GAIN * each.images_per_second >= best]
    return min(close, key=lambda each: each.workers)


def _measure(tuned: TunedModel, address: str, workers: int, seconds: float) -> WorkerMeasurement:
    target = parse_target(address, tuned.model, {})
    requests = make_requests(target, [builtin_image(tuned.input_side)], 1)
    connections = max(MIN_CONNECTIONS, tuned.in_flight)
    load = Load(
        target.address, requests, connections, None, WARM_UP_SECONDS, seconds, TIMEOUT_SECONDS
    )
    report = make_report(uvloop.run(run_load(load)), seconds)
    if report.latency is None:
        errors = ", ".join(report.errors) or "no request was answered in time"
        raise MeasurementError(f"{workers} workers could not be measured: {errors}")
    return WorkerMeasurement(
        workers,
        report.images_per_second,
        report.latency.percentiles["p50"],
        report.latency.percentiles["p99"],
    )


@contextmanager
def _running_service(tuned: TunedModel, workers: int) -> Iterator[str]:
    """The service with this setting on a free port, without API keys; yields its address."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SERVICE_")}
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w+b") as log:
        process = subprocess.Popen(  # noqa: S603  our own program
            _command(tuned, workers),
            env=own | {"XDG_CONFIG_HOME": folder},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield _wait_for_address(process, Path(folder, "log"))
        finally:
            process.terminate()
            try:
                process.communicate(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _command(tuned: TunedModel, workers: int) -> list[str]:
    of_model = {"version_policy": f"versions:{tuned.version}"}
    options = {
        "port": 0,
        "workers": workers,
        "store": tuned.store,
        "cache": tuned.cache,
        "default-model": tuned.model,
        "required-models": tuned.model,
        "models": json.dumps({tuned.model: of_model}),
        "log-level": "warning",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "service", *flags, "--no-page"]


def _wait_for_address(process: "subprocess.Popen[str]", log: Path) -> str:
    """The address that the service prints once its models are loaded."""
    if process.stdout is None:
        raise TypeError("the process has no pipe")
    for line in process.stdout:
        if match := re.match(r"Resident \S+ on (http://\S+)", line):
            return match[1]
    reason = log.read_text(errors="replace").strip()[-MAX_REASON_CHARACTERS:]
    raise MeasurementError(f"the service did not start: {reason}")
