"""The adapter to uvicorn's HTTP parser; no other file uses uvicorn's private attributes.

It bounds the size and the time of a request's head, notices at once when a client leaves, ignores
requests for an upgrade to HTTP/2 as Java's clients send them, and offers `DirectTransport`.
`tests/service/http/test_uvicorn_hooks.py` checks every attribute that is used here.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_PIPELINED_REQUESTS: Final = 32
MAX_PIPELINED_BYTES: Final = 32 * 1024 * 1024
"""Bytes of all connections that are read behind running requests."""
DIRECT_TRANSPORT: Final = "resident.direct_transport"
"""Key of the `DirectTransport` in the scope of a request."""
_UPGRADE_HEADERS: Final = frozenset({b"upgrade", b"connection", b"http2-settings"})


class DirectTransport:
    """Reads a body and writes a response without ASGI messages, which are slow for small images.

    The ASGI channels stay usable for everything that is not simple.

    Attributes:
        disconnected: Done once the client has left; cheaper than a task that waits for a message.
    """

    __slots__ = ("_cycle", "disconnected")

    def __init__(self, cycle: RequestResponseCycle, disconnected: asyncio.Future[None]) -> None:
        self._cycle = cycle
        self.disconnected = disconnected

    def take_body(self, max_bytes: int) -> bytes | None:
        """The body, if all of it has arrived and it has 1 to `max_bytes` bytes; otherwise None."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or not 0 < len(cycle.body) <= max_bytes:
            return None
        body = bytes(cycle.body)
        cycle.body = bytearray()
        return body

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Send a whole response in one write; returns False if that is impossible now.

        The headers are trusted and must include the content length.
        """
        cycle = self._cycle
        if cycle.response_started or cycle.disconnected or cycle.flow.write_paused:
            return False
        lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        cycle.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. A head must end within `MAX_HEAD_BYTES` and `head_timeout_seconds`."""

    head_timeout_seconds: ClassVar[float] = 30.0
    _head_open = False
    _head_bytes = 0
    _head_is_new = False
    _head_timer: asyncio.TimerHandle | None = None
    _chunk = b""
    _running_cycle: RequestResponseCycle | None = None
    _pipelined_bytes = 0
    _all_pipelined_bytes: ClassVar[int] = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Expect a head from the start: a client that connects must send a request."""
        super().connection_made(transport)
        self._disconnected = self.loop.create_future()
        self._begin_head()
        self._start_head_timer()

    def on_message_begin(self) -> None:
        """Start to bound the head of the next request."""
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        """Stop to bound the head; the endpoint bounds the body."""
        self._end_head()
        if self._asks_for_other_upgrade():
            self._upgrade_request = self.parser.get_method(), self.parser.get_http_version()
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Read on, to notice when the client leaves: uvicorn pauses at 64 KiB of unread body."""
        if self._asks_for_other_upgrade():
            return
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a head that this chunk does not end."""
        self._chunk, self._head_is_new = data, False
        super().data_received(data)
        if self.pipeline:
            self._read_on(len(data))
        if not self._head_open:
            self._start_idle_timer()
            return
        self._start_head_timer()
        if not self._head_is_new:  # otherwise most of the chunk may belong to the request before
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._end_head()
            self.send_400_response("The head of the request is too large.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the running request; uvicorn tells the newest, which may be pipelined behind it."""
        self._end_head()
        self._count_pipelined(-self._pipelined_bytes)
        self._disconnected.set_result(None)
        cycle = self._running_cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running_cycle = cycle
        if not self.pipeline:
            self._count_pipelined(-self._pipelined_bytes)
        scope: dict[str, Any] = cycle.scope  # type: ignore[assignment]
        scope[DIRECT_TRANSPORT] = DirectTransport(cycle, self._disconnected)
        super()._start_asgi_task(cycle, app)

    def _unsupported_upgrade_warning(self) -> None:
        """Parse the request again without its upgrade, where httptools stopped (uvicorn#2722)."""
        method, version = self._upgrade_request
        if method == b"CONNECT":  # llhttp takes it for an upgrade whatever its headers say
            self.send_400_response("CONNECT is not supported.")
            return
        error = sys.exception()
        body = (
            self._chunk[error.args[0] :] if isinstance(error, httptools.HttpParserUpgrade) else b""
        )
        request_line = b" ".join((method, self.url, b"HTTP/" + version.encode()))
        headers = [
            name + b": " + value for name, value in self.headers if name not in _UPGRADE_HEADERS
        ]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([request_line, *headers, b"", body]))

    def _read_on(self, count: int) -> None:
        """Read behind the running request, within bounds: the end of the connection comes after it.

        uvicorn pauses, and would notice a client that left only after the running request.
        """
        self._count_pipelined(count)
        if (
            len(self.pipeline) <= MAX_PIPELINED_REQUESTS
            and BoundedHttpProtocol._all_pipelined_bytes <= MAX_PIPELINED_BYTES
        ):
            self.flow.resume_reading()

    def _count_pipelined(self, count: int) -> None:
        self._pipelined_bytes += count
        BoundedHttpProtocol._all_pipelined_bytes += count

    def _asks_for_other_upgrade(self) -> bool:
        """Whether the request asks for an upgrade other than to a WebSocket."""
        return self.parser.should_upgrade() and not self._should_upgrade()

    def _begin_head(self) -> None:
        self._end_head()
        self._head_open, self._head_bytes, self._head_is_new = True, 0, True

    def _end_head(self) -> None:
        self._head_open = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _start_head_timer(self) -> None:
        """Most heads arrive in one chunk and need no timer."""
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_seconds, self.transport.close)

    def _start_idle_timer(self) -> None:
        """Close an idle connection also if bytes arrive that start no request: an unread body."""
        cycle: RequestResponseCycle | None = self.cycle
        idle = cycle is not None and cycle.response_complete and not self.pipeline
        if idle and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
