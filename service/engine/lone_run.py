"""Runs of a lone image: with all threads, if the warm-up shows that this is faster.

An image is alone if no other image is queued or running in any model of this process.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from model_store.manifest import Precision
from model_store.preprocessing import Pixels
from model_store.session import Session, SessionOptions
from model_store.timing import speedup, time_alternately
from model_store.version import Version
from service.engine.extras import Extras
from service.engine.variant_selection import load_proven
from service.engine.warm_up import warm_up
from service.host.thread_priority import NICENESS, run_in_background

if TYPE_CHECKING:
    from service.engine.batcher import Batcher

MIN_RUN_SECONDS: Final = 5e-3
"""Shorter runs, such as those of the built-in models, gain too little for a second session."""
MIN_SPEED_UP: Final = 1.15
"""All threads must run one image this many times as fast as one thread."""
TIMING_SECONDS: Final = 0.5
TIMING_ROUNDS: Final = 12


@dataclass(frozen=True)
class LoneSession:
    """A session with all threads, and the seconds that it takes for one image."""

    session: Session
    seconds: float


@dataclass(frozen=True)
class LoneRun:
    """How a batcher runs a lone image.

    Attributes:
        run: Called instead of the batcher's own run.
        others_idle: Whether all batchers of the process but this one are idle.
        on_run: Called with the seconds of each successful run.
    """

    run: Callable[[Pixels, Extras], Sequence[Any]]
    others_idle: "Callable[[Batcher], bool]" = lambda _: True
    on_run: Callable[[float], None] = lambda _: None


class ProcessBatchers:
    """The batchers of this process. Thread-safe."""

    def __init__(self) -> None:
        self._batchers: frozenset[Batcher] = frozenset()  # replaced as a whole
        self._lock = threading.Lock()

    def add(self, batcher: "Batcher") -> None:
        with self._lock:
            self._batchers |= {batcher}

    def remove(self, batcher: "Batcher") -> None:
        with self._lock:
            self._batchers -= {batcher}

    def others_idle(self, batcher: "Batcher") -> bool:
        """Whether all other batchers have nothing queued or running."""
        return all(each.is_idle for each in self._batchers if each is not batcher)


def find_lone_session(
    version: Version,
    precision: Precision,
    options: SessionOptions,
    session: Session,
    run_seconds: float,
) -> LoneSession | None:
    """Load a session with all threads and keep it if it is clearly faster for one image.

    Args:
        version: A version that is proven.
        precision: The variant that serves.
        options: The options of the session with all threads.
        session: The session that serves under load.
        run_seconds: Its time for one image. Divided by the gain, it is the time of a lone run; the
            measured time would be too long if other processes were running.

    Raises:
        ModelStoreError: The session cannot be loaded or run, or its golden proof fails.
    """
    if run_seconds < MIN_RUN_SECONDS:
        return None
    lone = load_lone_session(version, precision, options)
    seconds = time_alternately(
        {"one": session.run, "all": lone.run},
        version.manifest.input,
        rounds=TIMING_ROUNDS,
        budget_seconds=TIMING_SECONDS,
        batch_sizes=(1,),
    )
    gain = speedup(seconds["one"], seconds["all"])
    return LoneSession(lone, run_seconds / gain) if gain >= MIN_SPEED_UP else None


def load_lone_session(version: Version, precision: Precision, options: SessionOptions) -> Session:
    """Load a session with all threads, prove it and run it once.

    Its threads get the priority of the instances, because threads inherit their creator's.

    Raises:
        ModelStoreError: It cannot be loaded or run, or its golden proof fails.
    """
    variant = version.variant(precision)
    session = run_in_background(partial(load_proven, version, variant, options), NICENESS)
    warm_up(session.run, version.manifest.input, len(version.manifest.class_names), largest=1)
    return session
