"""Tries versions in the background, one after the other, and remembers the outcomes.

If a trial takes long, the next one starts beside it, so that a version that hangs delays no other.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import onnxruntime

from model_store.graph_cache import cpu_description
from model_store.store import ModelStore
from service.engine.options import EngineOptions
from service.host.memory_limit import memory_limit
from service.versions.trial import STOPPED, Trial, TrialOutcome
from service.versions.trial_process import TrialRequest
from service.versions.trial_records import TrialRecord, TrialRecords

OVERTAKE_SECONDS: Final = 10.0
"""A trial starts beside others if none of them is younger than this."""
RETRY_SECONDS: Final = 10.0
"""Time until a version is tried again that could not be read, or if the host was at fault."""
MAX_TRIALS: Final = 8
_FORMAT: Final = 1
_Place = tuple[str, int, str]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A version to try. `promotions` is how often an alias was moved to it."""

    store: ModelStore
    model: str
    number: int
    digest: str
    options: EngineOptions
    promotions: int = 0

    @property
    def place(self) -> _Place:
        """Distinguishes versions with the same digest: one of them may be damaged."""
        return self.model, self.number, self.digest


class Trials:
    """Runs trials and remembers their outcomes. Thread-safe.

    Args:
        records: Where outcomes are kept.
        timeout_seconds: A trial that takes longer is ended.
        memory_bytes: What a trial may allocate; by default most of what is available.
    """

    def __init__(
        self, records: TrialRecords, timeout_seconds: float, memory_bytes: int | None = None
    ) -> None:
        self.on_end: Callable[[], object] = lambda: None
        self._records = records
        self._timeout_seconds = timeout_seconds
        self._memory_bytes = memory_bytes
        self._executor = ThreadPoolExecutor(MAX_TRIALS, thread_name_prefix="trial")
        self._changed = threading.Condition()
        self._pending: dict[_Place, Future[TrialOutcome]] = {}
        self._running: dict[Trial, float] = {}
        self._fresh: dict[_Place, TrialOutcome] = {}
        self._failed: dict[_Place, TrialRecord] = {}
        self._postponed: dict[_Place, tuple[TrialOutcome, float]] = {}
        self._stopping = False

    def outcome(self, candidate: Candidate) -> TrialOutcome | None:
        """How the trial of a version ended; None while it is on trial, which this starts.

        A failure is remembered until an alias is moved to the version again, or a limit is changed.
        """
        key = self._key(candidate)
        with self._changed:
            fresh = self._fresh.pop(candidate.place, None)
            if fresh or candidate.place in self._pending:
                return fresh
            postponed, until = self._postponed.get(candidate.place, (None, 0.0))
            if postponed and time.monotonic() < until:
                return postponed
            record = self._failed.get(candidate.place) or self._records.read(key)
            if record and (record.reason is None or self._is_current(record, candidate)):
                return TrialOutcome(record.reason)
            self._start(key, candidate)
            return None

    def has_passed(self, candidate: Candidate) -> bool:
        """Whether the version is known to work here."""
        if candidate.place in self._failed:
            return False
        record = self._records.read(self._key(candidate))
        return record is not None and record.reason is None

    def run(self, candidate: Candidate) -> None:
        """Try a version unless it is known to work; blocks until `outcome` is not None."""
        if self.has_passed(candidate):
            return
        key = self._key(candidate)
        with self._changed:
            future = self._pending.get(candidate.place) or self._start(key, candidate)
        with suppress(CancelledError):
            future.result()

    def stop(self) -> None:
        """End all trials at once and start no others."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            for trial in self._running:
                trial.stop()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Wait until all trials have ended, after `stop`."""
        self._executor.shutdown()

    def _start(self, key: str, candidate: Candidate) -> Future[TrialOutcome]:
        if self._stopping:
            future = Future[TrialOutcome]()
            future.set_result(STOPPED)
            self._remember(key, candidate, STOPPED)
            return future
        future = self._executor.submit(self._run, key, candidate)
        self._pending[candidate.place] = future
        return future

    def _run(self, key: str, candidate: Candidate) -> TrialOutcome:
        request = TrialRequest(
            candidate.store,
            candidate.model,
            candidate.number,
            candidate.digest,
            candidate.options,
            self._memory_bytes,
        )
        trial = Trial(request, self._timeout_seconds)
        self._wait_for_turn(trial)
        try:
            outcome = trial.run()
        except Exception:  # it must not stay pending
            logger.exception("version trial not completed model=%s", candidate.model)
            outcome = TrialOutcome("its trial could not be completed", transient=True)
        with self._changed:
            del self._running[trial], self._pending[candidate.place]
            self._remember(key, candidate, outcome)
            self._changed.notify_all()
        with suppress(RuntimeError):  # the event loop may have ended
            self.on_end()
        return outcome

    def _remember(self, key: str, candidate: Candidate, outcome: TrialOutcome) -> None:
        if outcome.transient:
            self._postponed[candidate.place] = outcome, time.monotonic() + RETRY_SECONDS
            return
        self._postponed.pop(candidate.place, None)
        self._fresh[candidate.place] = outcome
        record = TrialRecord(
            model=candidate.model,
            number=candidate.number,
            reason=outcome.reason,
            promotions=candidate.promotions,
            timeout_seconds=self._timeout_seconds,
            memory_bytes=self._memory_bytes,
        )
        self._failed.pop(candidate.place, None)
        if outcome.died or outcome.reason is None:
            self._records.write(key, record)
        else:
            self._failed[candidate.place] = record

    def _is_current(self, record: TrialRecord, candidate: Candidate) -> bool:
        """Whether a failure would come again; after another promotion it is worth a trial."""
        limits = (record.timeout_seconds, record.memory_bytes)
        return record.promotions == candidate.promotions and limits == (
            self._timeout_seconds,
            self._memory_bytes,
        )

    def _wait_for_turn(self, trial: Trial) -> None:
        with self._changed:
            while self._running and not self._stopping:
                wait = max(self._running.values()) + OVERTAKE_SECONDS - time.monotonic()
                if wait <= 0:
                    break
                self._changed.wait(wait)
            self._running[trial] = time.monotonic()
            if self._stopping:
                trial.stop()

    def _key(self, candidate: Candidate) -> str:
        options = candidate.options
        parts = [
            _FORMAT,
            candidate.digest,
            onnxruntime.__version__,
            onnxruntime.get_build_info(),
            cpu_description(),
            memory_limit(),
            options.precision,
            options.max_batch_size,
            *(options.session.providers, options.session.intra_op_num_threads),
            *(options.session.concurrent_runs, options.session.gpu_memory_bytes),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
