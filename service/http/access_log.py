"""One log record per request."""

import logging
import re
import sys
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from starlette.types import Scope

from service.errors import shorten
from service.http.request_ids import RequestIds
from service.log_format import RecordFields
from service.prediction.request import RequestRecord

MAX_PATH_LENGTH: Final = 500
_ROUTINE_PATHS: Final = ("/health/", "/metrics", "/v2/health/", "/ping")
_HOST: Final = re.compile(r"[0-9A-Za-z._:%\[\]-]{1,64}")
logger = logging.getLogger(__name__)


@dataclass(slots=True)  # not frozen: that would double the time to create one
class LoggedRequest(RecordFields):
    """The message of a record: a line as text, or fields for JSON. Only what is needed is built."""

    client: str
    method: str
    path: str
    status: int
    seconds: float
    ids: RequestIds
    code: str
    prediction: RequestRecord | None

    def __str__(self) -> str:
        code = f" {self.code}" if self.code else ""
        if prediction := self.prediction:
            code += f" {prediction.model}/{prediction.version} images={prediction.images}"
        ids = f" id={self.ids.request_id}"
        if trace := self.ids.trace_id:
            ids += f" trace={trace}"
        return (
            f'{self.client} "{self.method} {self.path}" {self.status} {self.seconds * 1e3:.1f} ms'
            f"{code}{ids}"
        )

    def to_fields(self) -> dict[str, str | int | float]:
        fields: dict[str, str | int | float] = {
            "client": self.client,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "milliseconds": round(self.seconds * 1e3, 1),
        }
        if self.code:
            fields["code"] = self.code
        if prediction := self.prediction:
            fields["model"], fields["version"] = prediction.model, prediction.version
            fields["images"] = prediction.images
        fields["id"] = self.ids.request_id
        if trace := self.ids.trace_id:
            fields["trace"] = trace
        return fields


class LogRateLimit:
    """Limits the log to `records_per_second` answered and rejected requests.

    The number that was left out is logged with the first request of a later second.
    """

    def __init__(self, records_per_second: int) -> None:
        self.records_per_second = records_per_second
        self._second = 0
        self._passed = 0
        self._left_out = 0

    def allows(self, second: int) -> bool:
        """Count a request that ended in `second`. Returns True if it must be logged."""
        if second != self._second:
            left_out, self._second, self._passed, self._left_out = self._left_out, second, 0, 0
            if left_out:
                logger.info("requests not logged, because there are many count=%d", left_out)
        if self._passed >= self.records_per_second:
            self._left_out += 1
            return False
        self._passed += 1
        return True

    def leaves_out(self, second: int) -> bool:
        """Return True, and count the request, if the limit of this second is reached."""
        if second != self._second or self._passed < self.records_per_second:
            return False
        self._left_out += 1
        return True


def is_routine(path: str) -> bool:
    """Whether programs request the path at short intervals: health checks and scrapes."""
    return path.startswith(_ROUTINE_PATHS)


rate_limit: Final = LogRateLimit(sys.maxsize)
"""Checked before a record is built: building one costs more than most steps of a small request."""


def leaves_out() -> bool:
    """Whether a request that is answered or rejected now is counted instead of logged."""
    return not logger.isEnabledFor(logging.INFO) or rate_limit.leaves_out(int(time.time()))


def log_request(
    scope: Scope,
    status: int,
    started: float,
    ids: RequestIds,
    code: str = "",
    prediction: RequestRecord | None = None,
) -> None:
    """Log a request that has ended: client, method and path, status, milliseconds and ids.

    A successful health check or scrape is logged at level debug.

    Args:
        scope: Of the request.
        status: HTTP status of the response.
        started: `time.monotonic()` at its start.
        ids: Its ids.
        code: The outcome of a prediction or call: `ok`, or the code of the error.
        prediction: What is known about the prediction, if it is one.
    """
    routine = status == HTTPStatus.OK and is_routine(scope["path"])
    level = logging.DEBUG if routine else logging.INFO
    if not logger.isEnabledFor(level):
        return
    # Under overload, logging each rejection would cost more than rejecting it.
    usual = status < HTTPStatus.BAD_REQUEST or status == HTTPStatus.TOO_MANY_REQUESTS
    if usual and not rate_limit.allows(int(time.time())):
        return
    host = (scope.get("client") or ("",))[0]  # a trusted proxy may forward any text
    host = host if _HOST.fullmatch(host) else "-"
    path = shorten(scope.get("raw_path", b"").decode("ascii", "backslashreplace"), MAX_PATH_LENGTH)
    request = LoggedRequest(
        host, scope["method"], path, status, time.monotonic() - started, ids, code, prediction
    )
    # logger.info() would search the stack for its caller, which costs more than all of the above.
    logger.handle(logging.LogRecord(logger.name, level, "", 0, request, None, None))
