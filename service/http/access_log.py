"""Request ids, and one log line a request."""

import asyncio
import logging
import random
import re
import time
from http import HTTPStatus
from typing import Final

from starlette.types import Scope

REQUEST_ID: Final = b"x-request-id"
_ROUTINE: Final = ("/health/", "/metrics")
_HOST: Final = re.compile(r"[0-9A-Za-z._:%\[\]-]{1,64}")
_ACCEPTED: Final = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
logger = logging.getLogger(__name__)


def request_id(scope: Scope) -> bytes:
    """The client's own, where it is one that can stand in a log; else a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _ACCEPTED.fullmatch(value):
            return bytes(value)
    return b"%016x" % random.getrandbits(64)  # no secret: the system's own chance gives the GIL up


class RequestLog:
    """Writes one line a request: who asked what, what came, in how many milliseconds, and what a prediction was.

    The requests that end in one turn of the event loop share a record, a line each: records of their own would be a fifth of what
    the loop does for a small image, decoding apart. Routine requests that went well are of level debug.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, scope: Scope, status: int, began: float, identity: bytes, said: str = "") -> None:
        """The line of a request that has ended just now."""
        level = (
            logging.DEBUG
            if status == HTTPStatus.OK and scope["path"].startswith(_ROUTINE)
            else logging.INFO
        )
        if not logger.isEnabledFor(level):
            return
        host = (scope.get("client") or ("",))[0]  # where a proxy is trusted, whatever it forwards
        asked = (
            f'"{scope["method"]} {scope.get("raw_path", b"").decode("ascii", "backslashreplace")}"'
        )
        took = (time.monotonic() - began) * 1e3
        line = f"{host if _HOST.fullmatch(host) else '-'} {asked} {status} {took:.1f} ms{said} id={identity.decode()}"
        if level == logging.DEBUG:
            logger.debug("%s", line)
            return
        self._lines.append(line)
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        logger.info("%s", "\n".join(lines))


class LineFormatter(logging.Formatter):
    """Each line of a message with its level."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  as logging has it
        """The message, without what comes after it of an exception."""
        level = f"{record.levelname}:     "
        return level + record.message.replace("\n", f"\n{level}")
