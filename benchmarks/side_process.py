"""Starts a side, waits until it answers, and stops it with all its descendants."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from machine import ROOT, family, free_port, started
from sides import MAX_BATCH_SIZE, PEERS, Setup, Side, SideError
from workloads import BUILD, Workload

READY_SECONDS = 120
STOP_SECONDS = 5


@dataclass(frozen=True)
class RunningSide:
    side: Side
    port: int
    pid: int


@contextlib.contextmanager
def running(
    side: Side, workload: Workload, setup: Setup, extra: Sequence[str] = ()
) -> Iterator[RunningSide]:
    """Start a side. Raises SideError if it does not answer; logs are in build/bench/logs."""
    port, log = free_port(), BUILD / "logs" / f"{side.key}-{workload.key}.log"
    command = side.command(workload, setup, port, extra)
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as output,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
    ):
        process = subprocess.Popen(
            command,
            cwd=ROOT if side.script is None else PEERS,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**_environment(side, workload, setup, port), "SCRATCH": scratch},
        )
        try:
            _wait(process, side, workload, port, log)
            yield RunningSide(side, port, process.pid)
        finally:
            _stop(process)


def count_wrong_answers(server: RunningSide, workload: Workload) -> int:
    """Count answers whose class (or a peer's probability) differs from the model's file."""
    path, bodies = server.side.path_of(workload), server.side.bodies(workload)
    wrong = 0
    for body, (index, score) in zip(bodies.read(), workload.expected, strict=True):
        answer = _ask(server.port, path, bodies.content_type, body)
        if server.side.script is None:
            wrong += answer["results"][0]["predictions"][0]["index"] != index
        else:
            answer = answer[0] if isinstance(answer, list) else answer
            wrong += answer["index"] != index or abs(answer["score"] - score) > 0.01 * score
    return wrong


def _environment(side: Side, workload: Workload, setup: Setup, port: int) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SERVICE_")}
    if side.script is None:
        return kept
    preprocessing = workload.manifest.preprocessing
    variables = {
        "MODEL_FILE": str(workload.file),
        "RESIZE": str(preprocessing.resize),
        "CROP": str(preprocessing.crop_width),
        "WORKERS": str(setup.workers),
        "THREADS": str(setup.threads),
        "MAX_BATCH_SIZE": str(MAX_BATCH_SIZE),
        "PORT": str(port),
        "BENTOML_DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(PEERS),
    }
    return kept | variables | dict(setup.variables)


def _wait(
    process: "subprocess.Popen[bytes]", side: Side, workload: Workload, port: int, log: Path
) -> None:
    bodies, began = side.bodies(workload), time.monotonic()
    while True:
        with contextlib.suppress(URLError, OSError):
            _ask(port, side.path_of(workload), bodies.content_type, bodies.read()[0])
            return
        if process.poll() is not None:
            raise SideError(
                f"ended with {process.returncode} ({log.relative_to(ROOT)} has the reason)"
            )
        if time.monotonic() - began > READY_SECONDS:
            raise SideError(
                f"does not answer within {READY_SECONDS} s "
                f"({log.relative_to(ROOT)} may have the reason)"
            )
        time.sleep(0.1)


def _ask(port: int, path: str, content_type: str, body: bytes) -> Any:
    request = Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": content_type})
    with urlopen(request, timeout=30) as response:  # noqa: S310
        return json.loads(response.read())


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop the process and its descendants, which may not end with it."""
    members = {pid: started(pid) for pid in family(process.pid)}
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    for pid, moment in members.items():
        if moment is not None and started(pid) == moment:  # the number may have been reused
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()
