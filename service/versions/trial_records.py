"""Remembers how trials ended: all of them in this process, and across restarts those that count.

The file of a record is `<cache>/trials/<key>.json`. It is kept for versions that passed, and for
failures that cost much time or memory, so that a restart does not repeat them.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from model_store.files import read_bounded, write_atomically
from model_store.host_cache import mark_used, open_host_cache, prune_entries
from model_store.validation import DeferredFrozenModel
from service.log_on_change import LogOnChange
from service.versions.load_failure import Cause, LoadFailure

FOLDER: Final = "trials"
MAX_FILE_BYTES: Final = 64 * 1024
MAX_FOLDER_BYTES: Final = 256 * 1024
OVERLOAD_PAUSES: Final = (120.0, 480.0, 1920.0)
"""Seconds before each retry of a version whose failure a busy host may have caused."""
MEMORY_CHECK_SECONDS: Final = 60.0
MIN_MEMORY_GROWTH: Final = 1.25
"""A version that needed too much memory is tried again with this many times as much."""
_KEPT_ON_DISK: Final[frozenset[Cause]] = frozenset({"crash", "memory", "overload"})
logger = logging.getLogger(__name__)


class TrialLimits(DeferredFrozenModel):
    """The limits of a trial as they are set. Without `memory_bytes` the host decides."""

    timeout_seconds: float
    memory_bytes: int | None


class TrialRecord(DeferredFrozenModel):
    """How a trial ended.

    Attributes:
        model: The model and number of the version, for people who read the file.
        number: As above.
        failure: Why the version failed; None if it passed.
        promotions: How often an alias had been moved to the version before.
        attempts: How many trials in a row failed with the same promotions and limits.
        ended_at: When it ended, in seconds since 1970.
        limits: The limits of the trial.
    """

    model: str
    number: int
    failure: LoadFailure | None
    promotions: int
    attempts: int
    ended_at: float
    limits: TrialLimits

    def holds_for(self, promotions: int, limits: TrialLimits) -> bool:
        """Whether it was neither promoted nor given other limits since."""
        return (self.promotions, self.limits) == (promotions, limits)

    def seconds_until_retry(self, memory_bytes: int | None) -> float | None:
        """Time until a version that failed is tried again by itself; 0 for now, None for never.

        Args:
            memory_bytes: What a trial may allocate now.
        """
        match self.failure:
            case LoadFailure(cause="memory", memory_bytes=int(limit)) if not self._memory_is_set:
                enough = memory_bytes is not None and memory_bytes >= MIN_MEMORY_GROWTH * limit
                return 0 if enough else MEMORY_CHECK_SECONDS
            case LoadFailure(cause="overload" | "shortage") if self.attempts <= len(
                OVERLOAD_PAUSES
            ):
                pause = OVERLOAD_PAUSES[self.attempts - 1]
                # Of a clock that was set back, the pause is at most what it should be.
                return min(pause, max(0.0, self.ended_at + pause - time.time()))
        return None

    def when_retried(self) -> str:
        """What has to happen before the next trial, to follow the reason; often nothing."""
        match self.failure:
            case LoadFailure(cause="memory") if not self._memory_is_set:
                return "; it is tried again when clearly more is free"
            case LoadFailure(cause="overload" | "shortage"):
                if self.attempts > len(OVERLOAD_PAUSES):
                    return f"; it failed {self.attempts} times and is tried again when promoted"
                return (
                    f"; trial {self.attempts} of {len(OVERLOAD_PAUSES) + 1}, the next one starts "
                    f"{OVERLOAD_PAUSES[self.attempts - 1]:g} s after this one ended"
                )
        return ""

    @property
    def _memory_is_set(self) -> bool:
        return self.limits.memory_bytes is not None


class TrialRecords:
    """Keeps records in memory and on disk. Raises nothing. `get` and `put` access no disk.

    Args:
        cache: The host's cache directory. If it cannot be used, a warning is logged once.
        logs_known_failures: Whether this process is to log the failures that it reads from disk.
    """

    def __init__(self, cache: Path, *, logs_known_failures: bool = True) -> None:
        self._cache = cache
        self._logs_known_failures = logs_known_failures
        self._records: dict[str, TrialRecord] = {}
        self._problems = LogOnChange(logger)

    def get(self, key: str) -> TrialRecord | None:
        return self._records.get(key)

    def put(self, key: str, record: TrialRecord) -> None:
        self._records[key] = record

    def load(self, key: str) -> TrialRecord | None:
        """As `get`, and read the file if the record is not in memory."""
        if key not in self._records and (record := self._read_file(key)):
            self._records.setdefault(key, record)
        return self._records.get(key)

    def save(self, key: str) -> None:
        """Write the file of a record, if it is one to keep."""
        record = self._records[key]
        if record.failure and record.failure.cause not in _KEPT_ON_DISK:
            return
        try:
            path = open_host_cache(self._cache, FOLDER) / f"{key}.json"
            write_atomically(path, record.model_dump_json().encode())
            prune_entries(path.parent, MAX_FOLDER_BYTES, keep=path)
        except OSError as error:
            self._report(error)

    def _read_file(self, key: str) -> TrialRecord | None:
        try:
            path = open_host_cache(self._cache, FOLDER) / f"{key}.json"
            record = TrialRecord.model_validate_json(read_bounded(path, MAX_FILE_BYTES))
        except FileNotFoundError:
            return None
        except ValidationError:
            logger.warning("trial record damaged, the version is tried again key=%s", key[:12])
            return None
        except OSError as error:
            self._report(error)
            return None
        mark_used(path)
        if record.failure and not self._logs_known_failures:
            failure = replace(record.failure, is_logged=True)
            return record.model_copy(update={"failure": failure})
        return record

    def _report(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        self._problems.report("cache", f"trials are not remembered reason={reason!r}")
