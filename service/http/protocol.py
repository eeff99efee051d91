"""A subclass of uvicorn's HTTP protocol; no other file uses uvicorn's private attributes.

- Heads, trailers and chunk framing are limited in size and time.
- A client that disconnects is noticed immediately.
- Requests to upgrade, which Java's HTTP client sends, are answered as plain HTTP/1.1.
- `DirectTransport` reads and writes without ASGI messages.

`tests/service/http/test_uvicorn_hooks.py` checks every private attribute that is used here.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from service.http.bounded_transport import BoundedTransport

MAX_HEAD_BYTES: Final = 64 * 1024
"""Largest request head; also the limit for trailers, and for chunk framing without body data."""
MAX_UNREAD_BYTES: Final = 64 * 1024
"""Most body bytes read and dropped after a response. Beyond that, the connection closes."""
MAX_PIPELINED_REQUESTS: Final = 32
MAX_PIPELINED_BYTES: Final = 32 * 1024 * 1024
"""Limit, over all connections, for data that is read while an earlier request runs."""
DRAIN_IDLE_SECONDS: Final = 1.0
"""How long an idle connection stays open at shutdown, for a request that was already sent."""
DIRECT_TRANSPORT: Final = "resident.direct_transport"
"""Key of the `DirectTransport` in the ASGI scope."""
_SLICE_BYTES: Final = 1024
_MAX_LENGTH_DIGITS: Final = 19
_UPGRADE_HEADERS: Final = frozenset({b"upgrade", b"http2-settings"})
_FIRST_PROBE_SECONDS: Final = 0.05


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


class _HeldFlow(FlowControl):
    """Ignores `resume_reading` while `held` is set."""

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class _RefusedError(Exception):
    """A head that is rejected. `args` are the status and the message of the response."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. A head may take at most `MAX_HEAD_BYTES` and `timeout_seconds`."""

    timeout_seconds: ClassVar[float] = 30.0
    transport: BoundedTransport
    flow: _HeldFlow
    _all_pipelined_bytes: ClassVar[int] = 0
    _head_open = False
    _progressed = False
    _head_bytes = 0  # an upper bound until the head is complete
    _stalled_bytes = 0
    _unread_bytes = 0
    _read_timer: asyncio.TimerHandle | None = None
    _probe_timer: asyncio.TimerHandle | None = None
    _chunk = b""
    _unparsed = b""
    _pipelined_bytes = 0
    _half_closed = False
    _running_cycle: RequestResponseCycle | None = None
    _refusal: tuple[int, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start the timer of the first head, so that a client cannot connect and send nothing."""
        bounded = BoundedTransport(transport, self.loop, self.timeout_seconds)
        super().connection_made(bounded)
        self.flow = _HeldFlow(bounded)
        self._disconnected = self.loop.create_future()
        self._head_open = True
        self._start_read_timer(self.timeout_seconds)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            self.transport.discard(len(data))
        elif self._refusal:
            self.flow.pause_reading()
        elif self._unparsed:
            self._unparsed += data
            self._hold_reading()
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Parse data with many requests in slices, so that parsing can stop in between."""
        if len(data) <= _SLICE_BYTES or data.count(b"HTTP/") <= MAX_PIPELINED_REQUESTS:
            self._feed(data)
        else:
            for start in range(0, len(data), _SLICE_BYTES):
                if len(self.pipeline) > MAX_PIPELINED_REQUESTS:
                    self._unparsed = data[start:]
                    break
                self._feed(data[start : start + _SLICE_BYTES])
                if self._refusal or self.transport.is_closing():
                    return
        if self.pipeline:
            self._read_on(len(data))

    def _feed(self, data: bytes) -> None:
        self._chunk, self._progressed = data, False
        rest = memoryview(data)
        try:
            while True:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as error:
                    rest = rest[error.args[0] :]
                    self._parse_without_upgrade()
        except _RefusedError as error:
            self._refuse(*error.args)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _RefusedError):
                self._refuse(*error.__context__.args)
            else:
                self.logger.warning("Invalid HTTP request received.")
                self._refuse(400, "Invalid HTTP request received.")
        else:
            self._bound_incomplete_message(len(data))

    def _bound_incomplete_message(self, count: int) -> None:
        """Count bytes towards the limits of an incomplete head, trailers or unread body."""
        if not self.transport.receiving:
            self._start_idle_timer()
            return
        if self._head_open:
            self._head_bytes += count
            self._start_read_timer(self.timeout_seconds)
        if not self._progressed:
            self._stalled_bytes += count
            if self._stalled_bytes > MAX_HEAD_BYTES:
                what = "head" if self._head_open else "framing of the body"
                self._refuse(400, f"The {what} of the request is too large.")
        newest: RequestResponseCycle | None = self.cycle
        if newest is not None and newest.response_complete and not self._head_open:
            self._unread_bytes += count
            if self._unread_bytes > MAX_UNREAD_BYTES:
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stop_read_timer()
        self.transport.receiving = self._head_open = self._progressed = True
        self._head_bytes = self._stalled_bytes = self._unread_bytes = 0

    def on_headers_complete(self) -> None:
        """Check the head, then detach the list of headers, so that trailers are not added to it."""
        self._head_open, self._progressed = False, True
        self._stop_read_timer()
        if self._head_bytes + len(self._chunk) > MAX_HEAD_BYTES:
            self._check_head_size()
        self._stalled_bytes = 0
        if self.parser.should_upgrade():
            return
        self._check_body_headers()
        super().on_headers_complete()
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._progressed, self._stalled_bytes = True, 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Resume reading, to notice a disconnect: uvicorn pauses at 64 KiB of unread body."""
        if self.parser.should_upgrade():
            return
        self.transport.receiving = False
        self._stop_read_timer()
        super().on_message_complete()
        self.cycle.more_body = False
        if not self.pipeline:
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """Continue with what waited: a request, unparsed data, an error response or EOF."""
        if self.pipeline or self._unparsed or self.flow.held:
            self._hold_reading()
        super().on_response_complete()
        if self.transport.is_closing() or self._is_answering():
            pass
        elif self._refusal:
            self._send_refusal()
        elif self._unparsed:
            pass
        elif self._half_closed:
            self.transport.close()
        elif self.transport.receiving and self._read_timer is None:
            self._start_read_timer(min(self.timeout_seconds, self.timeout_keep_alive))
        if self._unparsed and len(self.pipeline) <= MAX_PIPELINED_REQUESTS // 2:
            self.loop.call_soon(self._parse_rest)

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's returns None
        """Keep the connection open while responses are due: a client may half-close and read on.

        A client that has disconnected sends the same EOF. `_probe` tells the two apart: it writes
        `100 Continue`, and the system of a client that has gone resets the connection.
        """
        if self.transport.is_closing():
            return False
        self._half_closed = self.flow.held = True
        if not self._unparsed:
            self._drop_incomplete_request()
        if not self._is_answering():
            return False
        if self._probe_timer is None:
            self._probe(_FIRST_PROBE_SECONDS)
        return True

    def _drop_incomplete_request(self) -> None:
        """Disconnect the newest request if its body is incomplete: after EOF, no more arrives."""
        newest: RequestResponseCycle | None = self.cycle
        if newest is not None and newest.more_body and not newest.response_complete:
            _disconnect(newest)
            if self.pipeline:
                self.pipeline.popleft()
        self._stop_read_timer()
        self.transport.receiving = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Disconnect the running request too; uvicorn disconnects only the newest request."""
        self.transport.mark_lost()
        self._stop_read_timer()
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        self._unparsed = b""
        self._count_pipelined(-self._pipelined_bytes)
        self._disconnected.set_result(None)
        cycle = self._running_cycle
        if cycle is not None and not cycle.response_complete:
            _disconnect(cycle)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.start_write_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.transport.stop_write_timer()

    def shutdown(self) -> None:
        """Close after the request in progress; if idle, after `DRAIN_IDLE_SECONDS`."""
        if self.transport.is_closing():
            self.transport.close_now()
        elif self._is_answering():
            self.cycle.keep_alive = False
        elif not self.transport.receiving:
            self.loop.call_later(DRAIN_IDLE_SECONDS, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._is_answering() and not self.transport.is_closing():
            self.transport.close_now()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running_cycle = cycle
        if not self.pipeline:
            if self._pipelined_bytes or self.flow.held:
                self._count_pipelined(-self._pipelined_bytes)
                self._hold_reading()
                self.flow.resume_reading()
            if getattr(self.server_state, "draining", False) and not self._unparsed:
                cycle.keep_alive = False
        scope: dict[str, Any] = cycle.scope  # type: ignore[assignment]
        scope[DIRECT_TRANSPORT] = DirectTransport(cycle, self._disconnected)
        super()._start_asgi_task(cycle, app)

    def _is_answering(self) -> bool:
        cycle = self._running_cycle
        return cycle is not None and not (cycle.response_complete or cycle.disconnected)

    def _parse_without_upgrade(self) -> None:
        """Parse the head again without its upgrade, at which httptools stops (uvicorn#2722)."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":  # llhttp treats it as an upgrade, whatever its headers
            raise _RefusedError(400, "CONNECT is not supported.")
        lines = [b" ".join((method, self.url, b"HTTP/" + version.encode()))]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(  # noqa: PLW2901
                    option for option in options if option.lower() not in _UPGRADE_HEADERS
                )
            if name not in _UPGRADE_HEADERS:
                lines.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def _check_head_size(self) -> None:
        """Measure the head exactly, except for spaces around values, which the parser drops."""
        size = len(self.parser.get_method()) + len(self.url) + len("  HTTP/1.1\r\n\r\n")
        size += sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            raise _RefusedError(400, "The head of the request is too large.")

    def _check_body_headers(self) -> None:
        for name, value in self.headers:
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                raise _RefusedError(501, "Only the transfer coding chunked is supported.")
            if name == b"content-length" and len(value) > _MAX_LENGTH_DIGITS:
                raise _RefusedError(400, "Content-Length is too long.")

    def _refuse(self, status: int, message: str) -> None:
        """Send an error and close, after the responses to earlier requests."""
        self._stop_read_timer()
        newest: RequestResponseCycle | None = self.cycle
        in_body = self.transport.receiving and not self._head_open
        if in_body and newest is not None and newest.more_body:
            if newest.response_started:
                self.transport.close()
                return
            if self.pipeline and self.pipeline[0][0] is newest:
                self.pipeline.popleft()
            elif newest is self._running_cycle:
                _disconnect(newest)
        self.transport.receiving = True  # close() then discards what still arrives
        self._refusal = status, message
        if not self._is_answering():
            self._send_refusal()

    def _send_refusal(self) -> None:
        if self._refusal is None:
            return
        status, message = self._refusal
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(message)),
            (b"connection", b"close"),
        ]
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", message.encode())))
        self.transport.close()

    def _parse_rest(self) -> None:
        """Parse the data that waited because too many requests were pipelined."""
        if not self._unparsed or len(self.pipeline) > MAX_PIPELINED_REQUESTS:
            return
        if self.transport.is_closing() or self._refusal:
            return
        rest, self._unparsed = self._unparsed, b""
        self._unset_keepalive_if_required()
        self._parse(rest)
        if self._half_closed and not self._unparsed:
            self._drop_incomplete_request()
            if not self._is_answering():
                self.transport.close()
        self._hold_reading()
        if not self.pipeline:
            self.flow.resume_reading()

    def _read_on(self, count: int) -> None:
        """Keep reading while a request runs, within limits, to notice a disconnect.

        uvicorn pauses reading, so it would notice the disconnect only after the request.
        """
        self._count_pipelined(count)
        self._hold_reading()
        self.flow.resume_reading()

    def _hold_reading(self) -> None:
        """Set `flow.held`, and pause reading if too much is pipelined or unparsed."""
        full = bool(self.pipeline) and (
            len(self.pipeline) > MAX_PIPELINED_REQUESTS
            or BoundedHttpProtocol._all_pipelined_bytes > MAX_PIPELINED_BYTES
        )
        self.flow.held = full or bool(self._unparsed) or self._half_closed
        if self.flow.held and not self._half_closed:
            self.flow.pause_reading()

    def _count_pipelined(self, count: int) -> None:
        self._pipelined_bytes += count
        BoundedHttpProtocol._all_pipelined_bytes += count

    def _probe(self, seconds: float) -> None:
        """Write to a client that has sent EOF. If it has gone, a reset ends the connection."""
        cycle = self._running_cycle
        if cycle is None or not self._is_answering() or self.transport.is_closing():
            return
        if not cycle.response_started and cycle.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._probe_timer = self.loop.call_later(seconds, self._probe, 2 * seconds)

    def _start_read_timer(self, seconds: float) -> None:
        if self._read_timer is None and not self.transport.is_closing():
            self._read_timer = self.loop.call_later(seconds, self.transport.close_now)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _start_idle_timer(self) -> None:
        """Restart the keep-alive timer after bytes that start no request, like empty lines."""
        cycle: RequestResponseCycle | None = self.cycle
        idle = cycle is not None and cycle.response_complete and not self.pipeline
        if idle and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Make the next ASGI message of this request `http.disconnect`."""
    cycle.disconnected = True
    cycle.message_event.set()


def start_draining(state: ServerState) -> None:
    """Make every further response close its connection, because the server will stop."""
    state.draining = True  # type: ignore[attr-defined]
