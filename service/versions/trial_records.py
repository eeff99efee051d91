"""Remembers across restarts which versions passed a trial here and which died in one.

The file of a record is `<cache>/trials/<key>.json`. A key stands for the digest of a version and
for how and where it runs, so other settings or another machine mean a new trial.
"""

import logging
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from model_store.files import read_bounded, write_atomically
from model_store.host_cache import mark_used, open_host_cache, prune_entries
from model_store.validation import RareModel
from service.log_on_change import LogOnChange

FOLDER: Final = "trials"
MAX_FILE_BYTES: Final = 64 * 1024
MAX_FOLDER_BYTES: Final = 256 * 1024
logger = logging.getLogger(__name__)


class TrialRecord(RareModel):
    """The outcome of a trial.

    Attributes:
        model: The model and number of the version, for people who read the file.
        number: As above.
        reason: Why the version cannot serve; None if it passed.
        promotions: How often an alias had been moved to the version before.
        timeout_seconds: The limit of time.
        memory_bytes: The limit of memory, if it was set.
    """

    model: str
    number: int
    reason: str | None
    promotions: int
    timeout_seconds: float
    memory_bytes: int | None


class TrialRecords:
    """Keeps records in memory and on disk. Raises nothing.

    Args:
        cache: The host's cache directory. If it cannot be used, a warning is logged once.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._records: dict[str, TrialRecord] = {}
        self._problems = LogOnChange(logger)

    def read(self, key: str) -> TrialRecord | None:
        if key not in self._records and (record := self._read_file(key)):
            self._records[key] = record
        return self._records.get(key)

    def write(self, key: str, record: TrialRecord) -> None:
        self._records[key] = record
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
        return record

    def _report(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        self._problems.report("cache", f"trials are not remembered reason={reason!r}")
