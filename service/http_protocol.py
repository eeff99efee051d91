"""uvicorn's HTTP parser with a bound on the head of a request: its bytes, and the time that a client may take over it.

Without one, a client that never ends its headers is held for ever, and so is every byte that it sends. It also tells at once when a
client leaves, and takes requests that ask for an upgrade to HTTP/2, as Java's clients do, for what they are without it.
"""

import asyncio
import sys
from typing import Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
DISCONNECTED: Final = "resident.disconnected"
"""The key in a request's scope of a future that is done when the client has left: cheaper than a task that waits for it."""
_UPGRADE: Final = frozenset({b"upgrade", b"connection", b"http2-settings"})


class BoundedHttpProtocol(HttpToolsProtocol):
    """Between a connection's begin or a request's first byte and the end of its headers both bounds hold."""

    head_timeout_seconds: ClassVar[float] = 30.0
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _chunk = b""
    _answering: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client that connects must also ask."""
        super().connection_made(transport)
        self._disconnected = self.loop.create_future()
        self._begin_head()

    def on_message_begin(self) -> None:
        """The next request on this connection begins."""
        super().on_message_begin()
        self.scope[DISCONNECTED] = self._disconnected  # type: ignore[typeddict-unknown-key]  # a scope may hold more
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
        self._chunk = data
        super().data_received(data)
        if self._timer is not None:
            self._head_bytes += len(data)
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
        super()._start_asgi_task(cycle, app)

    def _asks_for_upgrade(self) -> bool:
        return self.parser.should_upgrade() and not self._should_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """Parse the request again without its wish: the parser has ended with the head, and took no body (uvicorn#2722)."""
        error = sys.exception()
        rest = self._chunk[error.args[0] :] if isinstance(error, httptools.HttpParserUpgrade) else b""
        method, version = self._asked
        kept = [name + b": " + value for name, value in self.headers if name not in _UPGRADE]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([method + b" " + self.url + b" HTTP/" + version, *kept, b"", rest]))

    def _begin_head(self) -> None:
        self._end_head()
        self._head_bytes = 0
        self._timer = self.loop.call_later(self.head_timeout_seconds, self.transport.close)

    def _end_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
