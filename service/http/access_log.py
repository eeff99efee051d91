"""Request ids, and one log record per request."""

import logging
import random
import re
import time
from http import HTTPStatus
from typing import Final

from starlette.types import Scope

from model_store.names import printable
from service.errors import shorten

REQUEST_ID: Final = b"x-request-id"
MAX_PATH_LENGTH: Final = 500
_ROUTINE_PATHS: Final = ("/health/", "/metrics")
_HOST: Final = re.compile(r"[0-9A-Za-z._:%\[\]-]{1,64}")
_ACCEPTED_ID: Final = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
logger = logging.getLogger(__name__)


def choose_request_id(scope: Scope) -> bytes:
    """The id that the client sent if it is safe to log, otherwise a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _ACCEPTED_ID.fullmatch(value):
            return bytes(value)
    return b"%016x" % random.getrandbits(64)  # need not be secret; os.urandom would release the GIL


def log_request(
    scope: Scope, status: int, started: float, request_id: bytes, detail: str = ""
) -> None:
    """Log a request that has ended: client, method and path, status, milliseconds, detail and id.

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
        f'{host} "{scope["method"]} {path}" {status} {milliseconds:.1f} ms{detail} '
        f"id={request_id.decode()}"
    )
    # logger.info() would search the stack for its caller, which costs more than all of the above.
    logger.handle(logging.LogRecord(logger.name, level, __file__, 0, line, None, None))


class LineFormatter(logging.Formatter):
    """Formats each message as one line that starts with its level; a traceback may follow.

    Control characters are escaped, so text from clients cannot start a new line.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  named by logging
        return f"{record.levelname}:     {printable(record.message)}"
