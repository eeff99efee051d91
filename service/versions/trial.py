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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Final, cast

from pydantic import ValidationError

from model_store.temporary import temporary_directory
from service.engine.warm_model import Measurement
from service.host.output_tail import OutputTail
from service.versions.load_failure import LoadFailure, explain
from service.versions.trial_process import TrialReport, TrialRequest, TrialStart

_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from service.versions.trial_process import main; main()"
)
STOPPED: Final = LoadFailure("the service is shutting down", "host")
logger = logging.getLogger(__name__)


class Trial:
    """A trial of one version. `run` blocks; `stop` ends it from another thread."""

    def __init__(self, request: TrialRequest, timeout_seconds: float) -> None:
        self._request = request
        self._timeout_seconds = timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def run(self) -> Measurement | LoadFailure:
        """Start the process, wait for its end, and return what it measured or why it failed."""
        began = time.monotonic()
        with _temporary_directory() as folder:
            try:
                process = self._start(folder)
            except OSError as error:
                return LoadFailure(
                    f"no process can be started to load it in: {error.strerror}", "host"
                )
            if process is None:
                return STOPPED
            try:
                result, lines = self._wait(process)
            except RuntimeError as error:  # there is no thread for OutputTail
                result, lines = explain(error), []
            finally:
                process.kill()
                process.wait()
        if self._stopped:
            return STOPPED
        failure = result if isinstance(result, LoadFailure) else None
        self._log(
            "version trial ended %s result=%s duration_ms=%.0f",
            failure.cause if failure else "passed",
            (time.monotonic() - began) * 1e3,
        )
        for line in lines if failure else ():
            self._log("version trial output %s line=%r", line)
        return result

    def stop(self) -> None:
        """End the process, if it runs; `run` then returns `STOPPED`."""
        with self._lock:
            self._stopped = True
            if self._process:
                self._process.kill()

    def _start(self, folder: str | None) -> subprocess.Popen[bytes] | None:
        limits = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with self._lock:
            if self._stopped:
                return None
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, "-c", _PROGRAM, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **limits, **({"TMPDIR": folder} if folder else {})},
                start_new_session=True,  # so that Ctrl-C reaches only the service
            )
        self._log("version trial started %s pid=%d", self._process.pid)
        return self._process

    def _wait(
        self, process: subprocess.Popen[bytes]
    ) -> tuple[Measurement | LoadFailure, list[str]]:
        """The result, and the last lines that the process wrote to stderr."""
        tail = OutputTail(cast("IO[bytes]", process.stderr))
        process.stderr = None  # else `communicate` would read it, without a limit
        try:
            output, _ = process.communicate(pickle.dumps(self._request), self._timeout_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            reason = (
                f"it was not loaded, proven and warmed up within {self._timeout_seconds:g} s "
                "(SERVICE_LOAD_TIMEOUT_SECONDS)"
            )
            return LoadFailure(reason, "overload"), tail.lines()
        return _result(output, process.returncode), tail.lines()

    def _log(self, message: str, *values: object) -> None:
        request = self._request
        logger.info(message, f"model={request.model} version={request.number}", *values)


@contextmanager
def _temporary_directory() -> Iterator[str | None]:
    """A directory for the temporary files of a process that may be killed; None without one."""
    with ExitStack() as stack:
        try:
            folder = str(stack.enter_context(temporary_directory("trial")))
        except OSError:  # no directory is writable; most versions need none
            folder = None
        yield folder


def _result(output: bytes, exit_code: int) -> Measurement | LoadFailure:
    start, report = _parse(output)
    if report and report.traceback:
        logger.error("version trial raised an error:\n%s", report.traceback)
    if report and (result := report.measurement or report.failure):
        return result
    if start is None:
        reason = f"the process to load it in ended before it began, with exit code {exit_code}"
        return LoadFailure(reason, "host")
    if exit_code == -signal.SIGKILL:
        limit = start.memory_bytes
        limited = "" if limit is None else f", although it may take {limit // 2**20} MiB"
        reason = (
            "the process that loaded it was killed, probably because the host ran out of "
            f"memory{limited} (SERVICE_LOAD_MEMORY_BYTES)"
        )
        return LoadFailure(reason, "overload")
    name = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
    return LoadFailure(f"it crashed the process that loaded it ({name})", "crash")


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
