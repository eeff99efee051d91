"""Tries versions in the background, one after the other, and remembers how the trials ended.

If a trial takes long, the next one starts beside it, so that a version that hangs delays no other.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from service.engine.warm_model import Measurement
from service.versions.candidate import Candidate
from service.versions.load_failure import RETRY_SECONDS, LoadFailure, explain
from service.versions.trial import STOPPED, Trial
from service.versions.trial_exchange import TrialExchange
from service.versions.trial_process import TrialRequest, default_memory_limit
from service.versions.trial_records import TrialLimits, TrialRecord, TrialRecords

OVERTAKE_SECONDS: Final = 10.0
"""A trial starts beside others if none of them is younger than this."""
MAX_RETRY_SECONDS: Final = 300.0
MAX_TRIALS: Final = 8
MEASUREMENT_SECONDS: Final = 60.0
"""How long a trial replaces the verification and the measurement of a load."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialPassed:
    """A version works here. `measurement` is of its trial, if that has just ended."""

    measurement: Measurement | None = None


@dataclass(frozen=True)
class _RecentMeasurement:
    measurement: Measurement
    promotions: int
    ended_at: float


@dataclass(frozen=True)
class _Postponed:
    """A failure that says nothing about the version, and until when it is not tried again."""

    failure: LoadFailure
    attempts: int
    until: float


class Trials:
    """Runs trials and remembers how they ended. Thread-safe.

    Args:
        records: Where results are kept.
        timeout_seconds: A trial that takes longer is ended.
        memory_bytes: What a trial may allocate; by default most of what is available.
        exchange: Keeps several processes from trying the same version.
    """

    def __init__(
        self,
        records: TrialRecords,
        timeout_seconds: float,
        memory_bytes: int | None = None,
        exchange: TrialExchange | None = None,
    ) -> None:
        self._exchange = exchange or TrialExchange()
        self.on_end: Callable[[], object] = lambda: None
        self._records = records
        self._limits = TrialLimits(timeout_seconds=timeout_seconds, memory_bytes=memory_bytes)
        self._executor = ThreadPoolExecutor(MAX_TRIALS, thread_name_prefix="trial")
        self._changed = threading.Condition()
        self._on_trial: dict[str, tuple[Trial, Future[None]]] = {}
        self._running: dict[Trial, float] = {}
        self._measured: dict[str, _RecentMeasurement] = {}
        self._postponed: dict[str, _Postponed] = {}
        self._stopping = False

    def outcome_or_start(self, candidate: Candidate) -> TrialPassed | LoadFailure | None:
        """How the trial of a version ended. If it has to be tried, start that and return None.

        A failure is final until an alias is moved to the version again or a limit is changed.
        Failures for which the host may be to blame are also retried; see `TrialRecord`.
        """
        self._records.load(candidate.key)
        with self._changed:
            if self._stopping:
                return STOPPED
            if candidate.key in self._on_trial:
                return None
            postponed = self._postponed.get(candidate.key)
            if postponed and (wait := postponed.until - time.monotonic()) > 0:
                return replace(postponed.failure, retry_seconds=wait)
            record = self._records.get(candidate.key)
            if record and record.failure is None:
                return TrialPassed(self._take_measurement(candidate))
            if record and record.failure and self._holds(record, candidate):
                wait_or_never = record.seconds_until_retry(self._memory_limit())
                if wait_or_never != 0:
                    reason = record.failure.reason + record.when_retried()
                    return replace(record.failure, reason=reason, retry_seconds=wait_or_never)
            return self._start(candidate)

    def has_passed(self, candidate: Candidate) -> bool:
        """Whether the version is known to work here."""
        record = self._records.load(candidate.key)
        return record is not None and record.failure is None

    def run(self, candidate: Candidate) -> None:
        """Try a version unless it is known to work; blocks until that has ended.

        `outcome_or_start` then tells how. An operator who retries need not wait for a pause to end.
        """
        passed = self.has_passed(candidate)
        with self._changed:
            if postponed := self._postponed.get(candidate.key):
                self._postponed[candidate.key] = replace(postponed, until=0.0)
            if passed:
                return
            if candidate.key not in self._on_trial:
                self._start(candidate)
            on_trial = self._on_trial.get(candidate.key)
        if on_trial:
            with suppress(CancelledError):
                on_trial[1].result()

    def postpone(self, candidate: Candidate, failure: LoadFailure) -> LoadFailure:
        """Return a failure of the host until a growing pause has passed."""
        with self._changed:
            before = self._postponed.get(candidate.key)
            attempts = before.attempts + 1 if before else 1
            pause = min(RETRY_SECONDS * 2 ** (attempts - 1), MAX_RETRY_SECONDS)
            until = time.monotonic() + pause
            self._postponed[candidate.key] = _Postponed(failure, attempts, until)
            return replace(failure, retry_seconds=pause)

    def forget_postponed(self, candidate: Candidate) -> None:
        """Start again with the shortest pause, because the version was loaded."""
        with self._changed:
            self._postponed.pop(candidate.key, None)

    def adopt_result(self, key: str, record: TrialRecord, measurement: Measurement | None) -> None:
        """Record the result of a trial in another process, which has logged it."""
        if record.failure:
            record = record.model_copy(update={"failure": replace(record.failure, is_logged=True)})
        with self._changed:
            self._records.put(key, record)
            if measurement:
                self._keep_measurement(key, record, measurement)
        self.on_end()

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

    def _start(self, candidate: Candidate) -> LoadFailure | None:
        """Start a trial; if that is not possible, return why. Call it with the lock."""
        if self._stopping:
            return STOPPED
        trial = self._new_trial(candidate)
        try:
            future = self._executor.submit(self._run, candidate, trial, time.time())
        except RuntimeError as error:  # there is no thread, but it may still be run later
            trial.stop()
            return self.postpone(candidate, explain(error))
        self._on_trial[candidate.key] = trial, future
        return None

    def _new_trial(self, candidate: Candidate) -> Trial:
        request = TrialRequest(
            candidate.store,
            candidate.model,
            candidate.number,
            candidate.digest,
            candidate.options,
            self._limits.memory_bytes,
        )
        return Trial(request, self._limits.timeout_seconds)

    def _run(self, candidate: Candidate, trial: Trial, asked_at: float) -> None:
        try:
            with self._exchange.exclusive(candidate.key):
                self._run_unless_tried(candidate, trial, asked_at)
        except Exception:  # it must not stay on trial
            logger.exception("version trial not completed model=%s", candidate.model)
            failure = LoadFailure("its trial could not be completed", "host")
            with self._changed:
                self._end(candidate, trial)
                self._remember(candidate, failure)
        with suppress(RuntimeError):  # the event loop may have ended
            self.on_end()

    def _run_unless_tried(self, candidate: Candidate, trial: Trial, asked_at: float) -> None:
        """Run a trial, unless another process has run it since it was asked for."""
        key = candidate.key
        record = self._records.get(key)
        if record and record.ended_at >= asked_at:
            with self._changed:
                self._end(candidate, trial)
            return
        self._wait_for_turn(trial)
        result = trial.run()
        with self._changed:
            self._end(candidate, trial)
            recorded = self._remember(candidate, result)
            record = self._records.get(key)
        if recorded and record:
            self._records.save(key)
            measurement = result if isinstance(result, Measurement) else None
            self._exchange.publish(key, record, measurement)

    def _end(self, candidate: Candidate, trial: Trial) -> None:
        """Mark the trial as ended. The caller must hold the lock."""
        self._running.pop(trial, None)
        if self._on_trial.get(candidate.key, (None,))[0] is trial:
            del self._on_trial[candidate.key]
        self._changed.notify_all()

    def _remember(self, candidate: Candidate, result: Measurement | LoadFailure) -> bool:
        """Keep how a trial ended; False if that says nothing about the version."""
        if result is STOPPED:
            return False
        if isinstance(result, LoadFailure) and result.cause == "host":
            self.postpone(candidate, result)
            return False
        before = self._records.get(candidate.key)
        failed_before = before and before.failure and self._holds(before, candidate)
        record = TrialRecord(
            model=candidate.model,
            number=candidate.number,
            failure=result if isinstance(result, LoadFailure) else None,
            promotions=candidate.promotions,
            attempts=before.attempts + 1 if before and failed_before else 1,
            ended_at=time.time(),
            limits=self._limits,
        )
        self._records.put(candidate.key, record)
        if isinstance(result, Measurement):
            self._keep_measurement(candidate.key, record, result)
        return True

    def _keep_measurement(self, key: str, record: TrialRecord, measurement: Measurement) -> None:
        age = max(0.0, time.time() - record.ended_at)
        ended_at = time.monotonic() - age
        self._measured[key] = _RecentMeasurement(measurement, record.promotions, ended_at)

    def _holds(self, record: TrialRecord, candidate: Candidate) -> bool:
        return record.holds_for(candidate.promotions, self._limits)

    def _take_measurement(self, candidate: Candidate) -> Measurement | None:
        """What a trial has just measured. Files may have changed since an earlier one."""
        recent = self._measured.pop(candidate.key, None)
        if recent is None or recent.promotions != candidate.promotions:
            return None
        age = time.monotonic() - recent.ended_at
        return recent.measurement if age <= MEASUREMENT_SECONDS else None

    def _memory_limit(self) -> int | None:
        return self._limits.memory_bytes or default_memory_limit()

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
