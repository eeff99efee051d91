"""A keep-alive HTTP/1.1 connection of the load generator.

It runs httptools, the server's own parser, on an asyncio protocol. The load generator shares CPUs
with the measured server, so a full HTTP client would lower the measured throughput.
"""

import asyncio
import errno
import functools
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Final

import httptools

CLOSED: Final = "connection closed by the server"


class NoResponseError(Exception):
    """There is no response. Failures are counted by `kind`."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    tls: bool = False


@dataclass(slots=True)  # one per response: freezing would double the time to create it
class Response:
    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One request at a time. Any error closes the connection, which cannot be used again."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._pending: asyncio.Future[Response] | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self._body: list[bytes] = []
        self.is_open = False

    def send(self, request: bytes, timeout_seconds: float) -> asyncio.Future[Response]:
        """Send a complete request; the future ends in its response or a NoResponseError."""
        self._pending = self._loop.create_future()
        if self._transport is None or not self.is_open:
            self._pending.set_exception(NoResponseError(CLOSED))
            return self._pending
        kind = describe_timeout(timeout_seconds)
        self._timeout = self._loop.call_later(timeout_seconds, self._fail, kind)
        self._transport.write(request)
        return self._pending

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # `create_connection` gives a stream's.
        self._transport = transport  # type: ignore[assignment]
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("the response is not HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(CLOSED if exc is None else describe_connection_error(exc))

    # Called by httptools.

    def on_message_begin(self) -> None:
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        pending = self._pending
        if status < 200 or pending is None:  # an interim response, or one without a request
            return
        if self._timeout:
            self._timeout.cancel()
        self._pending = None
        if not self._parser.should_keep_alive():
            self.close()
        if not pending.done():
            pending.set_result(Response(status, b"".join(self._body)))

    def _fail(self, kind: str) -> None:
        if self._timeout:
            self._timeout.cancel()
        pending, self._pending = self._pending, None
        self.close()
        if pending and not pending.done():
            pending.set_exception(NoResponseError(kind))


async def connect(address: Address, timeout_seconds: float) -> Connection:
    """Open a connection. Raises NoResponseError."""
    context = _tls_context() if address.tls else None
    loop: Any = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_seconds):
            _, connection = await loop.create_connection(
                Connection, address.host, address.port, ssl=context
            )
    except TimeoutError:
        raise NoResponseError(describe_timeout(timeout_seconds)) from None
    except OSError as error:
        raise NoResponseError(describe_connection_error(error)) from None
    return connection  # type: ignore[no-any-return]


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Shared by all connections: loading the certificates takes longer than a request."""
    return ssl.create_default_context()


def describe_timeout(seconds: float) -> str:
    return f"no answer within {seconds:g} s"


def describe_connection_error(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "unknown host name"
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "connection refused"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return CLOSED
    if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
        return "too many open files: raise `ulimit -n` or lower --connections"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
