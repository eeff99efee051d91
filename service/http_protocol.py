"""uvicorn's HTTP parser with a bound on the head of a request: its bytes, and the time that a client may take over it.

Without one, a client that never ends its headers is held for ever, and so is every byte that it sends.
"""

import asyncio
from typing import ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
DISCONNECTED: Final = "resident.disconnected"
"""The key in a request's scope of a future that is done when the client has left: cheaper than a task that waits for it."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """Between a connection's begin or a request's first byte and the end of its headers both bounds hold."""

    head_timeout_seconds: ClassVar[float] = 30.0
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None

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
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that has not ended with this chunk."""
        super().data_received(data)
        if self._timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._end_head()
                self.send_400_response("The request's head is too large.")

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._end_head()
        self._disconnected.set_result(None)
        super().connection_lost(exc)

    def _begin_head(self) -> None:
        self._end_head()
        self._head_bytes = 0
        self._timer = self.loop.call_later(self.head_timeout_seconds, self.transport.close)

    def _end_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
