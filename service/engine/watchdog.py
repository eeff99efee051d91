"""Ends runs that hang; if a run cannot be ended, ends the process for its supervisor to restart."""

import faulthandler
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from model_store.errors import ModelRunError
from model_store.preprocessing import Pixels
from model_store.session import RunControl

GRACE_SECONDS: Final = 10.0
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


def end_process() -> None:
    """Print all stacks and exit at once: an orderly exit would wait for the hung thread."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    with suppress(OSError, ValueError):  # no stderr
        faulthandler.dump_traceback(sys.__stderr__ or 2)
    os._exit(os.EX_SOFTWARE)


@dataclass(eq=False)
class _WatchedRun:
    images: int
    due: float
    control: RunControl = field(default_factory=RunControl)
    terminated: bool = False


class Watchdog:
    """Terminates runs that take longer than `seconds`; 0 disables it.

    A terminated run raises ModelRunError. If it has not ended `grace_seconds` later, `give_up` is
    called. One thread watches all runs and sleeps while there are none.
    """

    def __init__(
        self,
        seconds: float,
        grace_seconds: float = GRACE_SECONDS,
        give_up: Callable[[], None] = end_process,
        name: str = "watchdog",
    ) -> None:
        self._seconds = seconds
        self._grace_seconds = grace_seconds
        self._give_up = give_up
        self._runs: set[_WatchedRun] = set()
        self._changed = threading.Condition()
        self._wakes_at = math.inf
        self._closing = False
        self.terminated_runs = 0
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        if seconds:
            self._thread.start()

    def guard(
        self, run: Callable[[Pixels, RunControl | None], Result]
    ) -> Callable[[Pixels], Result]:
        """Wrap `run` with the time limit. Concurrent runs are allowed; each has its own limit."""
        if not self._seconds:
            return lambda images: run(images, None)

        def guarded_run(images: Pixels) -> Result:
            watched = _WatchedRun(len(images), time.monotonic() + self._seconds)
            with self._changed:
                self._runs.add(watched)
                if watched.due < self._wakes_at:
                    self._changed.notify()
            try:
                return run(images, watched.control)
            except ModelRunError as error:
                if watched.terminated:
                    raise ModelRunError(
                        f"a run of {watched.images} images was terminated "
                        f"after {self._seconds:g} s (SERVICE_RUN_TIMEOUT_SECONDS)"
                    ) from error
                raise
            finally:
                with self._changed:
                    self._runs.discard(watched)

        return guarded_run

    @property
    def has_stopped(self) -> bool:
        """Whether the thread has ended although it should watch."""
        return bool(self._seconds) and not self._closing and not self._thread.is_alive()

    def close(self) -> None:
        """End the thread. Call it when no run is under way any more."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._closing:
                # A run that ends does not wake this thread; it wakes when that run would be due.
                self._wakes_at = min((run.due for run in self._runs), default=math.inf)
                self._changed.wait(
                    max(0.0, self._wakes_at - time.monotonic()) if self._runs else None
                )
                self._end_late_runs()

    def _end_late_runs(self) -> None:
        now = time.monotonic()
        for run in [run for run in self._runs if run.due <= now]:
            if run.terminated:
                logger.critical("run cannot be terminated, process exits images=%d", run.images)
                self._give_up()
            else:
                logger.error("run terminated images=%d seconds=%g", run.images, self._seconds)
                run.terminated = True
                self.terminated_runs += 1
                run.control.terminate()
            run.due = now + self._grace_seconds
