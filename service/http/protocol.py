"""The HTTP protocol of a connection: pipelined requests, disconnects, and the end of the server.

Based on `request_limits`, which parses requests within limits, and on `uvicorn_adapter`, which runs
them.
"""

import asyncio
from typing import ClassVar, Final

from uvicorn.server import ServerState

from service.http.bounded_transport import BoundedTransport
from service.http.client_limits import ConnectionLimit
from service.http.request_limits import LimitedConnection

MAX_PIPELINED_REQUESTS: Final = 32
MAX_PIPELINED_BYTES: Final = 32 * 1024 * 1024
"""Limit, over all connections, for data that is read while an earlier request runs."""
DRAIN_IDLE_SECONDS: Final = 1.0
"""How long an idle connection stays open at shutdown, for a request that was already sent."""
REFUSED_SECONDS: Final = 1.0
"""How long a refused connection stays open, so that the client can read why."""
_SLICE_BYTES: Final = 1024
_FIRST_PROBE_SECONDS: Final = 0.05


class BoundedHttpProtocol(LimitedConnection):
    """One connection. It keeps reading while a request runs, to notice a disconnect immediately.

    uvicorn pauses reading, so it would notice the disconnect only after the request.
    """

    connection_limit: ClassVar[ConnectionLimit | None] = None
    _all_pipelined_bytes: ClassVar[int] = 0
    _counted = False
    _pipelined_bytes = 0
    _unparsed = b""  # arrived while too many requests were pipelined
    _half_closed = False
    _probe_timer: asyncio.TimerHandle | None = None

    # As in uvicorn.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(BoundedTransport(transport, self.loop, self.timeout_seconds))
        if self.connection_limit and self.client:
            self._counted = self.connection_limit.open(self.client[0])
            if not self._counted:
                self.transport.receiving = True
                most = self.connection_limit.max_connections
                message = (
                    f"One client may open {most} connections (SERVICE_MAX_CONNECTIONS_PER_CLIENT)."
                )
                self.send_error(429, message, REFUSED_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._counted and self.connection_limit and self.client:
            self.connection_limit.close(self.client[0])
        self.transport.mark_lost()
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        self._unparsed = b""
        self._count_pipelined(-self._pipelined_bytes)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.stop_idle_timer()
        if self.transport.is_closing():
            self.transport.discard(len(data))
        elif self._rejection:
            self.flow.pause_reading()
        elif self._unparsed:
            self._unparsed += data
            self._pause_or_allow_reading()
        else:
            self._parse_in_slices(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's returns None
        """Keep the connection open while responses are due: a client may half-close and read on.

        A client that has disconnected sends the same EOF. `_probe` tells the two apart: it writes
        `100 Continue`, and the system of a client that has gone resets the connection.
        """
        if self.transport.is_closing() or not self.transport.can_write_eof():
            return False  # with TLS, neither side can close only its own direction
        self._half_closed = self.flow.stays_paused = True
        if not self._unparsed:
            self.stop_receiving()
        if not self.is_answering:
            return False
        if self._probe_timer is None:
            self._probe(_FIRST_PROBE_SECONDS)
        return True

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
        elif self.is_answering:
            self.close_after_newest()
        elif not self.transport.receiving:
            self.loop.call_later(DRAIN_IDLE_SECONDS, self._close_if_idle)

    def on_message_complete(self) -> None:
        """Resume reading, to notice a disconnect: uvicorn pauses at 64 KiB of unread body."""
        super().on_message_complete()
        if not self.transport.receiving and not self.pipeline:
            self.flow.resume_reading()

    def before_newest_runs(self) -> None:
        if self._pipelined_bytes or self.flow.stays_paused:
            self._count_pipelined(-self._pipelined_bytes)
            self._pause_or_allow_reading()
            self.flow.resume_reading()
        if getattr(self.server_state, "draining", False) and not self._unparsed:
            self.close_after_running()

    def on_response_complete(self) -> None:
        """Continue with what waited: a request, a rejection, unparsed data or EOF."""
        if self.pipeline or self._unparsed or self.flow.stays_paused:
            self._pause_or_allow_reading()
        super().on_response_complete()
        if self.transport.is_closing() or self.is_answering:
            pass
        elif self._rejection:
            self.send_error(*self._rejection)
        elif self._unparsed:
            pass
        elif self._half_closed:
            self.transport.close()
        else:
            self.time_incomplete_request()
        if self._unparsed and len(self.pipeline) <= MAX_PIPELINED_REQUESTS // 2:
            self.loop.call_soon(self._parse_rest)

    def _parse_in_slices(self, data: bytes) -> None:
        """Parse data with many requests in slices, so that parsing can stop in between."""
        if len(data) <= _SLICE_BYTES or data.count(b"HTTP/") <= MAX_PIPELINED_REQUESTS:
            self.parse(data)
        else:
            for start in range(0, len(data), _SLICE_BYTES):
                if len(self.pipeline) > MAX_PIPELINED_REQUESTS:
                    self._unparsed = data[start:]
                    break
                self.parse(data[start : start + _SLICE_BYTES])
                if self._rejection or self.transport.is_closing():
                    return
        if self.pipeline:
            self._count_pipelined(len(data))
            self._pause_or_allow_reading()
            self.flow.resume_reading()

    def _parse_rest(self) -> None:
        """Parse the data that waited because too many requests were pipelined."""
        if not self._unparsed or len(self.pipeline) > MAX_PIPELINED_REQUESTS:
            return
        if self.transport.is_closing() or self._rejection:
            return
        rest, self._unparsed = self._unparsed, b""
        self.stop_idle_timer()
        self._parse_in_slices(rest)
        if self._half_closed and not self._unparsed:
            self.stop_receiving()
            if not self.is_answering:
                self.transport.close()
        self._pause_or_allow_reading()
        if not self.pipeline:
            self.flow.resume_reading()

    def _pause_or_allow_reading(self) -> None:
        """Pause reading if too much is pipelined or unparsed; otherwise allow to resume it."""
        full = bool(self.pipeline) and (
            len(self.pipeline) > MAX_PIPELINED_REQUESTS
            or BoundedHttpProtocol._all_pipelined_bytes > MAX_PIPELINED_BYTES
        )
        self.flow.stays_paused = full or bool(self._unparsed) or self._half_closed
        if self.flow.stays_paused and not self._half_closed:
            self.flow.pause_reading()

    def _count_pipelined(self, count: int) -> None:
        self._pipelined_bytes += count
        BoundedHttpProtocol._all_pipelined_bytes += count

    def _probe(self, seconds: float) -> None:
        """Write to a client that has sent EOF. If it has gone, a reset ends the connection."""
        if self.is_answering and not self.transport.is_closing():
            self.send_continue()
            self._probe_timer = self.loop.call_later(seconds, self._probe, 2 * seconds)

    def _close_if_idle(self) -> None:
        if not self.is_answering and not self.transport.is_closing():
            self.transport.close_now()


def start_draining(state: ServerState) -> None:
    """Make every further response close its connection, because the server will stop."""
    state.draining = True  # type: ignore[attr-defined]
