"""How log records are written: lines for people, or JSON for programs that collect logs."""

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal

from model_store.names import printable

LogFormat = Literal["console", "json"]


class RecordFields(ABC):
    """A log message that is a line of text, and for JSON also has fields."""

    __slots__ = ()

    @abstractmethod
    def to_fields(self) -> Mapping[str, str | int | float]: ...


class LineFormatter(logging.Formatter):
    """Formats each message as one line with its time (UTC) and level; a traceback may follow.

    Control characters are escaped, so text from clients cannot start a new line. The number of the
    worker is at the end of the line, if there are several.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._suffix = "" if worker is None else f" worker={worker}"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  named by logging
        level = f"{record.levelname}:"
        return f"{timestamp(record.created)} {level:<9}{printable(record.message)}{self._suffix}"


class JsonFormatter(logging.Formatter):
    """Formats each record as one line with one JSON object.

    Its fields are `time` (UTC), `level`, `logger` and `message`, for a request also what the
    message says, each in a field of its own, and `traceback` for an error with one. If there are
    several workers, `worker` is the number of the one that wrote it.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            fields["worker"] = self._worker
        if isinstance(record.msg, RecordFields):
            fields |= record.msg.to_fields()
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)  # escapes whatever a name holds, lone surrogates too


FORMATTERS: Final[dict[LogFormat, type[LineFormatter | JsonFormatter]]] = {
    "console": LineFormatter,
    "json": JsonFormatter,
}


def timestamp(seconds: float) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    whole = int(seconds)
    return f"{_date_and_time(whole)}.{int((seconds - whole) * 1e3):03}Z"


@lru_cache(maxsize=2)
def _date_and_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
