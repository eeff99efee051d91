"""uvicorn's connection, as the rest of `service.http` uses it.

No other file uses uvicorn's private attributes. `tests/service/http/test_uvicorn_hooks.py` checks
that each of them still exists.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.http.bounded_transport import BoundedTransport

DIRECT_TRANSPORT: Final = "resident.direct_transport"
"""Key of the `DirectTransport` in the ASGI scope."""


class _DefaultLines:
    """The headers of every response, encoded again when uvicorn renews them each second."""

    def __init__(self) -> None:
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        self._lines = b""

    def encode(self, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        if headers is not self._headers:
            self._headers = headers
            self._lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        return self._lines


_default_lines: Final = _DefaultLines()


class DirectTransport:
    """Reads a body and writes a response without ASGI messages, which are slow for small images.

    Use the ASGI channels instead whenever a method returns None or False.

    Attributes:
        disconnected: Done once the client has disconnected. Cheaper than a task on `receive()`.
    """

    __slots__ = ("_cycle", "disconnected")

    def __init__(self, cycle: RequestResponseCycle, disconnected: asyncio.Future[None]) -> None:
        self._cycle = cycle
        self.disconnected = disconnected

    def take_body(self, max_bytes: int) -> bytes | None:
        """Return the body if all of it has arrived and it has 1 to `max_bytes` bytes, else None."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or not 0 < len(cycle.body) <= max_bytes:
            return None
        body = bytes(cycle.body)
        cycle.body = bytearray()
        return body

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Send a whole response in one write. Returns False, and sends nothing, if it cannot.

        The headers are not validated. They must include `Content-Length`.
        """
        cycle = self._cycle
        if cycle.response_started or cycle.disconnected or cycle.flow.write_paused:
            return False
        lines = [_default_lines.encode(cycle.default_headers)]
        lines += [b"%b: %b\r\n" % header for header in headers]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        cycle.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


class _ReadingControl(FlowControl):
    """Ignores `resume_reading` while `stays_paused` is set."""

    stays_paused = False

    def resume_reading(self) -> None:
        if not self.stays_paused:
            super().resume_reading()


class UvicornConnection(HttpToolsProtocol):
    """Parses the requests of one connection, and runs the application for one after the other.

    Subclasses override the callbacks of `asyncio.Protocol`, of httptools, `before_newest_runs`,
    `answer_early` and `on_response_complete`. Of uvicorn's attributes they use `flow`, `headers`,
    `logger`, `loop`, `parser`, `pipeline` (requests that wait), `server_state`,
    `timeout_keep_alive`, `transport` and `url`.
    """

    transport: BoundedTransport
    flow: _ReadingControl
    _running: RequestResponseCycle | None = None

    # As in uvicorn.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _ReadingControl(transport)
        self._disconnected = self.loop.create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """Disconnect the running request too; uvicorn disconnects only the newest request."""
        self._disconnected.set_result(None)
        if self._running is not None and not self._running.response_complete:
            _disconnect(self._running)
        super().connection_lost(exc)

    def before_newest_runs(self) -> None:
        """Override this callback: the newest request starts to run, and no other one waits."""

    def answer_early(self, scope: Scope, direct: DirectTransport) -> bool:  # noqa: ARG002
        """Override this to answer a request without a task. Return True if you answered it."""
        return False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.cycle.more_body = False  # uvicorn leaves it if the response is complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        scope: dict[str, Any] = cycle.scope  # type: ignore[assignment]
        direct = DirectTransport(cycle, self._disconnected)
        if not self.pipeline:
            self.before_newest_runs()
        if not self.answer_early(scope, direct):
            scope[DIRECT_TRANSPORT] = direct
            super()._start_asgi_task(cycle, app)

    @property
    def is_answering(self) -> bool:
        cycle = self._running
        return cycle is not None and not (cycle.response_complete or cycle.disconnected)

    @property
    def newest_is_answered(self) -> bool:
        """Whether the newest request has its response, although its body may still arrive."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.response_complete

    def close_after_running(self) -> None:
        """Make the response to the running request the last one."""
        if self._running is not None:
            self._running.keep_alive = False

    def close_after_newest(self) -> None:
        """Make the response to the newest request the last one."""
        self.cycle.keep_alive = False

    def drop_incomplete_request(self) -> None:
        """Disconnect the newest request if its body is incomplete, because no more arrives."""
        newest: RequestResponseCycle | None = self.cycle
        if newest is not None and newest.more_body and not newest.response_complete:
            _disconnect(newest)
            if self.pipeline:
                self.pipeline.popleft()

    def drop_invalid_request(self) -> bool:
        """Drop the newest request, whose body is invalid. False if its response has started."""
        newest: RequestResponseCycle | None = self.cycle
        if newest is None or not newest.more_body:
            return True
        if newest.response_started:
            return False
        if self.pipeline and self.pipeline[0][0] is newest:
            self.pipeline.popleft()
        elif newest is self._running:
            _disconnect(newest)
        return True

    def send_error(self, status: int, message: str, linger_seconds: float | None = None) -> None:
        """Send a response in plain text, and close the connection as `BoundedTransport.close`."""
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(message)),
            (b"connection", b"close"),
        ]
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", message.encode())))
        self.transport.close(linger_seconds)

    def send_continue(self) -> None:
        """Send `100 Continue`, unless the response has started or the client uses HTTP/1.0."""
        cycle = self._running
        if cycle and not cycle.response_started and cycle.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def parse_head_again(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Parse the head that has just arrived with other headers and a new parser."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        line = b" ".join((method, self.url, b"HTTP/" + version.encode()))
        lines = [line, *(name + b": " + value for name, value in headers)]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    stop_idle_timer = HttpToolsProtocol._unset_keepalive_if_required  # noqa: SLF001  the adapter

    def start_idle_timer(self) -> None:
        """Start the keep-alive timer, unless it runs, a request does, or the connection closes."""
        idle = self.newest_is_answered and not self.pipeline and not self.transport.is_closing()
        if idle and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Make the next ASGI message of this request `http.disconnect`."""
    cycle.disconnected = True
    cycle.message_event.set()
