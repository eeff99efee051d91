"""Limits for what a client sends besides body data: heads, trailers, chunk framing, unread bodies.

Malformed HTTP, or a request beyond a limit, gets an error, and the connection is closed.
"""

import asyncio
from typing import ClassVar, Final, Literal

import httptools

from service.http.uvicorn_adapter import UvicornConnection

MAX_HEAD_BYTES: Final = 64 * 1024
"""Largest request head; also the limit for trailers, and for chunk framing without body data."""
MAX_UNREAD_BYTES: Final = 256 * 1024
"""Most body bytes read and dropped after a response. Beyond that, the connection closes.

Dropping the photograph of a rejected request costs less than a new connection.
"""
_MAX_LENGTH_DIGITS: Final = 19
_UPGRADE_HEADERS: Final = frozenset({b"upgrade", b"http2-settings"})


rejections: Final[dict[Literal["invalid", "slow_head"], int]] = {"invalid": 0, "slow_head": 0}
"""Requests of all connections that ended before a route has seen them, for the metrics."""


class _RejectedError(Exception):
    """The parser is to stop. `args` are the status and the message of the response."""


class LimitedConnection(UvicornConnection):
    """Parses requests within limits. A head may take at most `timeout_seconds`.

    Requests to upgrade, which Java's HTTP client sends, are answered as plain HTTP/1.1.
    """

    timeout_seconds: ClassVar[float] = 30.0
    _in_head = False
    _progressed = False  # whether the newest data had a head's end or body data
    _head_bytes = 0  # an upper bound until the head is complete
    _framing_bytes = 0  # since the last body data
    _unread_bytes = 0
    _data = b""  # the newest
    _read_timer: asyncio.TimerHandle | None = None
    _rejection: tuple[int, str] | None = None

    # As in uvicorn.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head, so that a client cannot connect and send nothing."""
        super().connection_made(transport)
        self._in_head = True
        self._start_read_timer(self.timeout_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_read_timer()
        super().connection_lost(exc)

    def parse(self, data: bytes) -> None:
        """Parse data of any number of requests, and reject the newest one if it is invalid."""
        self._data, self._progressed = data, False
        rest = memoryview(data)
        try:
            while True:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as error:
                    rest = rest[error.args[0] :]
                    self._parse_without_upgrade()
        except _RejectedError as error:
            self.reject(*error.args)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _RejectedError):
                self.reject(*error.__context__.args)
            else:
                self.logger.warning("Invalid HTTP request received.")
                self.reject(400, "Invalid HTTP request received.")
        else:
            if self.transport.receiving:
                self._limit_incomplete_request(len(data))
            else:
                self.start_idle_timer()  # stopped by bytes that start no request, like empty lines

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stop_read_timer()
        self.transport.receiving = self._in_head = self._progressed = True
        self._head_bytes = self._framing_bytes = self._unread_bytes = 0

    def on_headers_complete(self) -> None:
        """Check the head, then detach the list of headers, so that trailers are not added to it."""
        self._in_head, self._progressed = False, True
        self._stop_read_timer()
        if self._head_bytes + len(self._data) > MAX_HEAD_BYTES:
            self._check_head_size()
        self._framing_bytes = 0
        if self.parser.should_upgrade():
            return
        self._check_body_headers()
        super().on_headers_complete()
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._progressed, self._framing_bytes = True, 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self.transport.receiving = False
        self._stop_read_timer()
        super().on_message_complete()

    def reject(self, status: int, message: str) -> None:
        """Send an error and close, after the responses to earlier requests."""
        rejections["invalid"] += 1
        self._stop_read_timer()
        in_body = self.transport.receiving and not self._in_head
        if in_body and not self.drop_invalid_request():
            self.transport.close()
            return
        self.transport.receiving = True  # close() then discards what still arrives
        self._rejection = status, message
        if not self.is_answering:
            self.send_error(status, message)

    def time_incomplete_request(self) -> None:
        """After the response, limit the time for the rest of the request."""
        if self.transport.receiving and self._read_timer is None:
            self._start_read_timer(min(self.timeout_seconds, self.timeout_keep_alive))

    def stop_receiving(self) -> None:
        """The client sends nothing more."""
        self.drop_incomplete_request()
        self._stop_read_timer()
        self.transport.receiving = False

    def _limit_incomplete_request(self, count: int) -> None:
        """Count bytes towards the limits of an incomplete head, trailers or unread body."""
        if self._in_head:
            self._head_bytes += count
            self._start_read_timer(self.timeout_seconds)
        if not self._progressed:
            self._framing_bytes += count
            if self._framing_bytes > MAX_HEAD_BYTES:
                what = "head" if self._in_head else "framing of the body"
                self.reject(400, f"The {what} of the request is too large.")
        if self.newest_is_answered and not self._in_head:
            self._unread_bytes += count
            if self._unread_bytes > MAX_UNREAD_BYTES:
                self.transport.close()

    def _parse_without_upgrade(self) -> None:
        """Parse the head again without its upgrade, at which httptools stops (uvicorn#2722)."""
        if self.parser.get_method() == b"CONNECT":  # an upgrade for llhttp, whatever its headers
            raise _RejectedError(400, "CONNECT is not supported.")
        headers = []
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                kept = [option for option in options if option.lower() not in _UPGRADE_HEADERS]
                headers.append((name, b", ".join(kept)))
            elif name not in _UPGRADE_HEADERS:
                headers.append((name, value))
        self.parse_head_again(headers)

    def _check_head_size(self) -> None:
        """Measure the head exactly, except for spaces around values, which the parser drops."""
        size = len(self.parser.get_method()) + len(self.url) + len("  HTTP/1.1\r\n\r\n")
        size += sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            raise _RejectedError(400, "The head of the request is too large.")

    def _check_body_headers(self) -> None:
        for name, value in self.headers:
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                raise _RejectedError(501, "Only the transfer coding chunked is supported.")
            if name == b"content-length" and len(value) > _MAX_LENGTH_DIGITS:
                raise _RejectedError(400, "Content-Length is too long.")

    def _start_read_timer(self, seconds: float) -> None:
        if self._read_timer is None and not self.transport.is_closing():
            self._read_timer = self.loop.call_later(seconds, self._close_slow)

    def _close_slow(self) -> None:
        rejections["slow_head"] += self._in_head and self._head_bytes > 0
        self.transport.close_now()

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
