"""Request ids, and one log line a request."""

import logging
import re
import secrets
import time
from http import HTTPStatus
from typing import Final

from starlette.types import Scope

REQUEST_ID: Final = b"x-request-id"
_ROUTINE: Final = ("/health/", "/metrics")
_ACCEPTED: Final = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
logger = logging.getLogger(__name__)


def request_id(scope: Scope) -> bytes:
    """The client's own, where it is one that can stand in a log; else a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _ACCEPTED.fullmatch(value):
            return bytes(value)
    return secrets.token_hex(8).encode()


def log_request(scope: Scope, status: int, began: float, identity: bytes, said: str = "") -> None:
    """One line: who asked what, what came, in how many milliseconds, and what a prediction was. At level debug for routine."""
    level = logging.DEBUG if status == HTTPStatus.OK and scope["path"].startswith(_ROUTINE) else logging.INFO
    if logger.isEnabledFor(level):
        client = scope.get("client")
        logger.log(
            level,
            '%s "%s %s" %d %.1f ms%s id=%s',
            client[0] if client else "-",
            scope["method"],
            scope.get("raw_path", b"").decode("ascii", "backslashreplace"),
            status,
            (time.monotonic() - began) * 1e3,
            said,
            identity.decode(),
        )
