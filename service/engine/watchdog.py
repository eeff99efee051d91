"""The watchdog: a run that hangs is ended, and where even that does not help the process ends for its supervisor to restart."""

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
    """Show where every thread stands and end this process at once: a thread that hangs would keep an orderly end from coming."""
    with suppress(OSError, ValueError):  # no stderr
        faulthandler.dump_traceback(sys.__stderr__ or 2)
    os._exit(os.EX_SOFTWARE)


@dataclass(eq=False)
class _Run:
    images: int
    due: float
    control: RunControl = field(default_factory=RunControl)
    terminated: bool = False


class Watchdog:
    """Looks after runs with one thread, which sleeps while none is under way and wakes at most once in `seconds` else.

    A run that takes longer than `seconds` is terminated and raises ModelRunError; one that goes on for `grace_seconds` after
    that ends the process. With 0 seconds runs are not looked after.
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
        self._runs: set[_Run] = set()
        self._changed = threading.Condition()
        self._wakes_at = math.inf
        self._closing = False
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        if seconds:
            self._thread.start()

    def guard(
        self, run: Callable[[Pixels, RunControl | None], Result]
    ) -> Callable[[Pixels], Result]:
        """The run without its control: several may be under way at once, each with its own time."""
        if not self._seconds:
            return lambda images: run(images, None)

        def guarded(images: Pixels) -> Result:
            entry = _Run(len(images), time.monotonic() + self._seconds)
            with self._changed:
                self._runs.add(entry)
                if entry.due < self._wakes_at:
                    self._changed.notify()
            try:
                return run(images, entry.control)
            except ModelRunError as error:
                if entry.terminated:
                    raise ModelRunError(
                        f"a run of {entry.images} images was ended after {self._seconds:g} s"
                    ) from error
                raise
            finally:
                with self._changed:
                    self._runs.discard(entry)

        return guarded

    def close(self) -> None:
        """End the thread, once no run is under way any more."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._closing:
                # A run that ends wakes no one: it costs at most one look at the time that it would have been late.
                self._wakes_at = min((run.due for run in self._runs), default=math.inf)
                self._changed.wait(
                    max(0.0, self._wakes_at - time.monotonic()) if self._runs else None
                )
                self._end_late_runs()

    def _end_late_runs(self) -> None:
        now = time.monotonic()
        for run in [run for run in self._runs if run.due <= now]:
            if run.terminated:
                logger.critical(
                    "a run of %d images does not end; the process ends, to be restarted", run.images
                )
                self._give_up()
                run.due = now + self._grace_seconds
            else:
                logger.error(
                    "a run of %d images takes longer than %g s and is terminated",
                    run.images,
                    self._seconds,
                )
                run.terminated = True
                run.control.terminate()
                run.due = now + self._grace_seconds
