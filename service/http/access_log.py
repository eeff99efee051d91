"""One log record per request."""

import logging
import re
import time
from http import HTTPStatus
from typing import Final

from starlette.types import Scope

from model_store.names import printable
from service.errors import shorten
from service.http.request_ids import RequestIds

MAX_PATH_LENGTH: Final = 500
_ROUTINE_PATHS: Final = ("/health/", "/metrics", "/v2/health/", "/ping")
_HOST: Final = re.compile(r"[0-9A-Za-z._:%\[\]-]{1,64}")
logger = logging.getLogger(__name__)


def log_request(
    scope: Scope, status: int, started: float, ids: RequestIds, detail: str = ""
) -> None:
    """Log a request that has ended: client, method and path, status, milliseconds, detail and ids.

    A successful health check or scrape is logged at level debug.
    """
    routine = status == HTTPStatus.OK and scope["path"].startswith(_ROUTINE_PATHS)
    level = logging.DEBUG if routine else logging.INFO
    if not logger.isEnabledFor(level):
        return
    host = (scope.get("client") or ("",))[0]  # a trusted proxy may forward any text
    host = host if _HOST.fullmatch(host) else "-"
    path = shorten(scope.get("raw_path", b"").decode("ascii", "backslashreplace"), MAX_PATH_LENGTH)
    milliseconds = (time.monotonic() - started) * 1e3
    line = (
        f'{host} "{scope["method"]} {path}" {status} {milliseconds:.1f} ms{detail} {ids.log_fields}'
    )
    # logger.info() would search the stack for its caller, which costs more than all of the above.
    logger.handle(logging.LogRecord(logger.name, level, __file__, 0, line, None, None))


class LineFormatter(logging.Formatter):
    """Formats each message as one line that starts with its level; a traceback may follow.

    Control characters are escaped, so text from clients cannot start a new line.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  named by logging
        return f"{record.levelname}:     {printable(record.message)}"
