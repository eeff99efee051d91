"""One trial: a version is loaded, proven and warmed up in a child process with limits.

A version may need more memory than there is, run for ever or crash ONNX Runtime. Then only its
process ends. A trial also fills the cache of optimised graphs, which the service then maps.
"""

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from service.engine.warm_model import Measurement
from service.versions.trial_process import TrialReport, TrialRequest, TrialStart

MEBIBYTE: Final = 1024 * 1024
_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from service.versions.trial_process import main; main()"
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended.

    Attributes:
        reason: Why the version cannot serve, in words for clients; None if it can.
        transient: The host or the disk is at fault, so it is tried again.
        died: The process ended by force, or had to be ended.
        measurement: What the trial measured, if it has just ended.
    """

    reason: str | None = None
    transient: bool = False
    died: bool = False
    measurement: Measurement | None = None


STOPPED: Final = TrialOutcome("the service is shutting down", transient=True)


class Trial:
    """A trial of one version. `run` blocks; `stop` ends it from another thread."""

    def __init__(self, request: TrialRequest, timeout_seconds: float) -> None:
        self._request = request
        self._timeout_seconds = timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def run(self) -> TrialOutcome:
        """Start the process, wait for its end and say how it ended."""
        began = time.monotonic()
        subject = f"model={self._request.model} version={self._request.number}"
        try:
            process = self._start()
        except OSError as error:
            reason = f"no process can be started to load it in: {error.strerror}"
            return TrialOutcome(reason, transient=True)
        if process is None:
            return STOPPED
        logger.info("version trial started %s pid=%d", subject, process.pid)
        try:
            output, _ = process.communicate(pickle.dumps(self._request), self._timeout_seconds)
            outcome = _outcome(output, process.returncode)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            reason = (
                f"it was not loaded, proven and warmed up within {self._timeout_seconds:g} s "
                "(SERVICE_LOAD_TIMEOUT_SECONDS)"
            )
            outcome = TrialOutcome(reason, died=True)
        if self._stopped:
            return STOPPED
        logger.info(
            "version trial ended %s result=%s duration_ms=%.0f",
            subject,
            "passed" if outcome.reason is None else "died" if outcome.died else "failed",
            (time.monotonic() - began) * 1e3,
        )
        return outcome

    def stop(self) -> None:
        """End the process, if it runs; `run` then returns `STOPPED`."""
        with self._lock:
            self._stopped = True
            if self._process:
                self._process.kill()

    def _start(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopped:
                return None
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, "-c", _PROGRAM, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # so that Ctrl-C reaches only the service
            )
            return self._process


def _outcome(output: bytes, exit_code: int) -> TrialOutcome:
    start, report = _parse(output)
    if report and report.traceback:
        logger.error("version trial raised an error:\n%s", report.traceback)
    if report and report.result == "passed":
        return TrialOutcome(measurement=report.measurement)
    if report and report.result != "out_of_memory":
        return TrialOutcome(report.reason, transient=report.result == "host_failed")
    if start is None:
        reason = f"the process to load it in ended before it began, with exit code {exit_code}"
        return TrialOutcome(reason, transient=True)
    if report or exit_code == -signal.SIGKILL:  # SIGKILL: the kernel was out of memory
        limit = start.memory_bytes
        left = "there is" if limit is None else f"{limit // MEBIBYTE} MiB"
        reason = f"loading it needs more memory than {left} (SERVICE_LOAD_MEMORY_BYTES)"
        return TrialOutcome(reason, died=True)
    name = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
    return TrialOutcome(f"it crashed the process that loaded it ({name})", died=True)


def _parse(output: bytes) -> tuple[TrialStart | None, TrialReport | None]:
    """What the process has written before it ended."""
    lines = output.split(b"\n")
    try:
        return (
            TrialStart.model_validate_json(lines[0]) if len(lines) > 1 else None,
            TrialReport.model_validate_json(lines[1]) if len(lines) > 2 else None,
        )
    except ValidationError:
        return None, None
