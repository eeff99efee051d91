"""uvicorn's HTTP parser with a bound on the head of a request: its bytes, and the time that a client may take over it.

Without one, a client that never ends its headers is held for ever, and so is every byte that it sends. It also tells at once when a
client leaves, and takes requests that ask for an upgrade to HTTP/2, as Java's clients do, for what they are without it. An
application may read and answer past the messages of ASGI, which cost a small image more than they are worth: see `DirectTransport`.
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
DIRECT_TRANSPORT: Final = "resident.direct_transport"
"""The key of the `DirectTransport` in a request's scope."""
_UPGRADE: Final = frozenset({b"upgrade", b"connection", b"http2-settings"})


class DirectTransport:
    """A request and its answer past the messages of ASGI, which go on to work: what is not simple is left to them.

    `left` is done when the client has left: cheaper than a task that waits for a message.
    """

    __slots__ = ("_cycle", "left")

    def __init__(self, cycle: RequestResponseCycle, left: asyncio.Future[None]) -> None:
        self._cycle = cycle
        self.left = left

    def take_body(self, most_bytes: int) -> bytes | None:
        """The body, where all of it has come, none was received yet and it is neither empty nor too large; else None."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or not 0 < len(cycle.body) <= most_bytes:
            return None
        body = bytes(cycle.body)
        cycle.body = bytearray()
        return body

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Send the whole answer in one write, where the client can take it at once; else False, and nothing was sent.

        The headers are ours and not checked; among them is the body's length.
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
    """Between a connection's begin or a request's first byte and the end of its headers both bounds hold."""

    head_timeout_seconds: ClassVar[float] = 30.0
    _head_open = False
    _head_bytes = 0
    _head_is_new = False
    _timer: asyncio.TimerHandle | None = None
    _chunk = b""
    _answering: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client that connects must also ask."""
        super().connection_made(transport)
        self._disconnected = self.loop.create_future()
        self._begin_head()
        self._watch_head()

    def on_message_begin(self) -> None:
        """The next request on this connection begins."""
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        """The head is here; from now on the body's own limits hold."""
        self._end_head()
        if self._asks_for_upgrade():
            self._asked = self.parser.get_method(), self.parser.get_http_version().encode()
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Go on reading, or nobody would notice that the client leaves: uvicorn pauses at 64 KiB of a body that wait."""
        if self._asks_for_upgrade():
            return
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that has not ended with this chunk."""
        self._chunk, self._head_is_new = data, False
        super().data_received(data)
        if not self._head_open:
            self._watch_idle()
        else:
            self._watch_head()
            self._head_bytes += (
                0 if self._head_is_new else len(data)
            )  # what stands before its begin is another request's
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._end_head()
                self.send_400_response("The request's head is too large.")

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: also from the request that is being answered, where others were sent behind it."""
        self._end_head()
        self._disconnected.set_result(None)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        cycle.scope[DIRECT_TRANSPORT] = DirectTransport(cycle, self._disconnected)
        super()._start_asgi_task(cycle, app)

    def _asks_for_upgrade(self) -> bool:
        return self.parser.should_upgrade() and not self._should_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """Parse the request again without its wish: the parser has ended with the head, and took no body (uvicorn#2722)."""
        if (
            self._asked[0] == b"CONNECT"
        ):  # which llhttp takes for an upgrade whatever its headers say
            self.send_400_response("CONNECT is not understood here.")
            return
        error = sys.exception()
        rest = (
            self._chunk[error.args[0] :] if isinstance(error, httptools.HttpParserUpgrade) else b""
        )
        method, version = self._asked
        kept = [name + b": " + value for name, value in self.headers if name not in _UPGRADE]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(
            b"\r\n".join([method + b" " + self.url + b" HTTP/" + version, *kept, b"", rest])
        )

    def _begin_head(self) -> None:
        self._end_head()
        self._head_open, self._head_bytes, self._head_is_new = True, 0, True

    def _watch_idle(self) -> None:
        """Bytes that begin no request, as the rest of a body that nobody reads, do not keep a connection open for ever."""
        cycle: RequestResponseCycle | None = self.cycle
        answered = cycle is not None and cycle.response_complete and not self.pipeline
        if answered and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _watch_head(self) -> None:
        """Set the time for a head that has not come in one chunk, as most do."""
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_timeout_seconds, self.transport.close)

    def _end_head(self) -> None:
        self._head_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
