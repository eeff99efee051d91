"""The supervisor: forks the workers, replaces those that end, and stops them at a signal.

It has one thread, so a fork cannot copy a lock that another thread holds (OpenBLAS ends its own
threads before a fork). Workers share the memory of everything that was imported before.
"""

import asyncio
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from service.workers.hub import Hub
from service.workers.link import Link

MAX_START_CRASHES: Final = 5
"""If this many workers in a row end before they are ready, the service ends."""
RESTART_PAUSE_SECONDS: Final = 0.5
"""Pause before a restart, multiplied by the number of consecutive crashes after the first."""
MAX_PAUSE_SECONDS: Final = 30.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
logger = logging.getLogger(__name__)


class WorkersFailedError(Exception):
    """No worker can start; the message says how the last one ended."""


class WorkerStartError(Exception):
    """A setting is wrong. `args` are the name of the error that a worker raised, and its text."""


@dataclass(eq=False)
class Worker:
    """A worker process.

    Attributes:
        number: From 1.
        pid: Its process.
        end: The supervisor's end of its link.
        serving: The task that passes its messages on until it has ended.
        ready: Whether it has loaded its models.
        is_broken: Whether a part of it has ended, so that it is replaced.
        failure: Why it cannot start.
    """

    number: int
    pid: int
    end: socket.socket
    serving: asyncio.Task[None]
    ready: bool = False
    is_broken: bool = False
    failure: tuple[str, str] | None = None


class Supervisor:
    """Runs workers until SIGTERM or SIGINT.

    Args:
        workers: How many.
        run_worker: Runs a worker in a new process. Its arguments are the link to the others, and
            whether it replaces a worker of a service that was ready before.
        stop_listening: Called `drain_delay_seconds` after the workers are told to stop.
        forget_worker: Called with the number of a worker that has ended.
        retire_counts: See `Hub`.
        drain_delay_seconds: How long the workers continue to accept connections.
        stop_seconds: Time after that until workers that still run are killed.
    """

    def __init__(
        self,
        workers: int,
        run_worker: Callable[[Link, bool], None],
        stop_listening: Callable[[], None],
        forget_worker: Callable[[int], None],
        retire_counts: Callable[[Any, Any], Any],
        drain_delay_seconds: float,
        stop_seconds: float,
    ) -> None:
        self._count = workers
        self._run_worker = run_worker
        self._stop_listening = stop_listening
        self._forget_worker = forget_worker
        self._drain_delay_seconds = drain_delay_seconds
        self._stop_seconds = stop_seconds
        self._workers: dict[int, Worker] = {}
        self._to_start = list(range(1, workers + 1))
        self._hub = Hub(retire_counts)
        self._hub.on_state = self._on_state
        self._ending: set[asyncio.Task[None]] = set()
        self._crashes = 0
        self._was_ready = False
        self._signal: int | None = None
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        # Polling leaves nothing in the kernel that a forked process would share.
        self._loop = asyncio.SelectorEventLoop(selectors.PollSelector())

    def run(self) -> None:
        """Run until a signal, and until all workers have ended after it.

        Raises:
            WorkerStartError: A setting is wrong.
            WorkersFailedError: Workers crash at their start.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, number)
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        try:
            while self._workers or not self._stopping:
                while self._to_start and not self._stopping:
                    self._start(self._to_start.pop(0))
                self._loop.run_until_complete(self._wait_for_change())
        finally:
            self._kill_all()
            self._stop_listening()
            for number in _SIGNALS:
                self._loop.remove_signal_handler(number)
            self._loop.close()
        if self._failure:
            raise self._failure

    @property
    def _stopping(self) -> bool:
        return bool(self._signal or self._failure)

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if not pid:
            ours.close()
            self._become_worker(theirs, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        serving = self._loop.create_task(self._hub.serve(number, ours))
        self._workers[number] = Worker(number, pid, ours, serving)
        logger.info("worker started worker=%d pid=%d", number, pid)

    def _become_worker(self, end: socket.socket, number: int) -> NoReturn:
        """Run a worker in this process, which was just forked."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)  # it belongs to the supervisor's event loop
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # uvicorn also raises it after an orderly shutdown, before the log is written.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            os.setsid()  # Ctrl-C reaches only the supervisor, which tells the workers
            for worker in self._workers.values():
                worker.end.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            with suppress(KeyboardInterrupt):
                self._run_worker(Link(end, number, self._count), self._was_ready)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            logger.exception("worker not started worker=%d", number)
        finally:
            logging.shutdown()
            sys.stdout.flush()
            os._exit(code)

    def _on_state(self, number: int, state: dict[str, Any]) -> None:
        worker = self._workers.get(number)
        if worker is None:
            return
        if "failure" in state:
            worker.failure = state["failure"], state["text"]
        if state.get("stopped") and not worker.is_broken:
            worker.is_broken = True
            parts = ", ".join(state["stopped"])
            logger.error(
                "worker stops, because a part of it has ended worker=%d part=%r", number, parts
            )
            os.kill(worker.pid, signal.SIGTERM)
            self._loop.call_later(self._stop_seconds, self._kill, worker)
        if state.get("loaded") and not worker.ready:
            worker.ready = True
            self._crashes = 0
            ready = [each for each in self._workers.values() if each.ready]
            self._was_ready = self._was_ready or len(ready) == self._count

    def _reap(self) -> None:
        """Find the processes that ended. PID 1 of a container gets those of other parents too."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                for worker in list(self._workers.values()):
                    if worker.pid == pid:
                        code = os.waitstatus_to_exitcode(status)
                        task = self._loop.create_task(self._on_end(worker, code))
                        self._ending.add(task)
                        task.add_done_callback(self._ending.discard)

    async def _on_end(self, worker: Worker, code: int) -> None:
        await asyncio.wait([worker.serving])  # its last messages may say why
        del self._workers[worker.number]
        self._forget_worker(worker.number)
        self._changed.set()
        if self._stopping:
            return
        if worker.failure and not self._was_ready:
            self._fail(WorkerStartError(*worker.failure))
            return
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        reason = worker.failure[1] if worker.failure else how
        logger.error("worker ended worker=%d pid=%d reason=%r", worker.number, worker.pid, reason)
        if not worker.ready:
            self._crashes += 1
            # Once the service was ready, it continues while at least one worker serves.
            others_serve = self._was_ready and any(each.ready for each in self._workers.values())
            if self._crashes >= MAX_START_CRASHES and not others_serve:
                text = f"{self._crashes} workers in a row ended before they were ready"
                self._fail(WorkersFailedError(f"{text}, the last one with {how}; see the log"))
                return
        pause = min(RESTART_PAUSE_SECONDS * max(0, self._crashes - 1), MAX_PAUSE_SECONDS)
        self._loop.call_later(pause, self._restart, worker.number)

    def _restart(self, number: int) -> None:
        self._to_start.append(number)
        self._changed.set()

    def _fail(self, failure: Exception) -> None:
        self._failure = failure
        self._stop(signal.SIGTERM)

    def _stop(self, number: int) -> None:
        """Pass a signal on to the workers. The first one also starts the shutdown."""
        if self._signal is None:
            self._signal = number
            delay = self._drain_delay_seconds
            self._loop.call_later(delay, self._stop_listening)
            self._loop.call_later(delay + self._stop_seconds, self._kill_all)
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                os.kill(worker.pid, number)
        self._changed.set()

    def _kill_all(self) -> None:
        for worker in self._workers.values():
            self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        if self._workers.get(worker.number) is worker:
            logger.error("worker killed, because it did not stop worker=%d", worker.number)
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
