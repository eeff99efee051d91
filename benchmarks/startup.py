"""Measures start time and memory when ready, of the service and of a bare FastAPI app.

Both are started in turn, n times each after one start that is not counted. Ready is the first 200
of /health/ready, polled every 5 ms; memory is VmRSS at that moment.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from machine import ROOT, free_port, resident_megabytes
from options import Options
from results import table, write_section
from workloads import resnet50

from model_store.store import BUILTIN_ROOT

BARE = "bare FastAPI app, the same model"
HEAD = (
    "model",
    "server",
    "exec to ready, s: median (min to max)",
    "resident when ready, MB: median (max)",
)


def measure(options: Options) -> None:
    """Measure the built-in default, and ResNet-50 with the cache of an earlier start."""
    large = resnet50()
    rows = []
    for name, what, store, version in (
        ("built-in default", "verified, warmed and proven", None, BUILTIN_ROOT / "cifar10/1"),
        (
            "ResNet-50, fp32",
            "verified and warmed, not the first start here",
            large.store,
            large.version,
        ),
    ):
        with (
            tempfile.TemporaryDirectory() as empty,
            tempfile.TemporaryDirectory() as cache,
        ):
            # The uncounted start fills the cache. With an empty store the built-in model serves.
            models = ["--store", str(store), "--no-builtin"] if store else ["--store", empty]
            rows += _rows(name, what, [*models, "--cache", cache], version, options.starts)
    method = (
        f"Both servers are started in turn, n = {options.starts} each after one start that is not "
        "counted. Ready is the first 200 of `/health/ready`; resident is VmRSS at that moment."
    )
    write_section("Start", [method, "", *table(HEAD, rows), ""])


def _rows(model: str, what: str, flags: Sequence[str], version: Path, n: int) -> list[list[str]]:
    port = free_port()
    commands = {
        f"Resident, {what}": [sys.executable, "-m", "service", "--port", str(port), *flags],
        BARE: [sys.executable, str(ROOT / "benchmarks/bare_app.py")],
    }
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(n + 1):
        for name, command in commands.items():
            figure = start(command, port, version)
            if number:
                figures[name].append(figure)
                print(
                    f"{number}/{n}  {model}, {name}: {figure[0]:.2f} s, {figure[1]:.0f} MB",
                    flush=True,
                )
    rows = []
    for name, measured in figures.items():
        seconds, megabytes = zip(*measured, strict=True)
        timed = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        rows.append(
            [model, name, timed, f"{statistics.median(megabytes):.0f} ({max(megabytes):.0f})"]
        )
    return rows


def start(command: Sequence[str], port: int, version: Path) -> tuple[float, float]:
    """Start a server, stop it when it is ready, and return seconds to ready and resident MB."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("SERVICE_")
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the image has compiled modules
    environment |= {"PORT": str(port), "MODEL_DIRECTORY": str(version), "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not is_ready(port):
            if process.poll() is not None:
                raise SystemExit(f"{command} ended with {process.returncode}")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        return seconds, resident_megabytes(process.pid)
    finally:
        process.terminate()
        process.wait()


def is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as response:
            return response.status == 200
    except (URLError, OSError):
        return False
