"""A keep-alive HTTP/1.1 connection of the load generator: httptools' parser, which the server has too, on an asyncio protocol.

A load generator shares its cores with the server that it measures, so what a request costs here is taken from there:
docs/service.md has the figures beside a client library's.
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


class ConnectionFailedError(Exception):
    """No answer came. `kind` is what such failures are counted by."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class Address:
    """Where to connect to."""

    host: str
    port: int
    tls: bool = False


@dataclass(slots=True)  # one an answer: freezing would double the time to make it
class Response:
    """A whole answer."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One request at a time. Closed by whatever goes wrong, and of no further use then."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._body: list[bytes] = []
        self.is_open = False

    def ask(self, request: bytes, timeout_seconds: float) -> asyncio.Future[Response]:
        """Send a whole request; the future ends in its answer or a ConnectionFailedError."""
        self._answer = self._loop.create_future()
        if self._transport is None or not self.is_open:
            self._answer.set_exception(ConnectionFailedError(CLOSED))
            return self._answer
        self._timer = self._loop.call_later(timeout_seconds, self._fail, timed_out(timeout_seconds))
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Drop the connection."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        self._transport = transport  # type: ignore[assignment]  # a stream's, by create_connection
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("the answer is no HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        self._fail(CLOSED if exc is None else kind_of(exc))

    def on_message_begin(self) -> None:
        """As httptools calls it."""
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        """As httptools calls it."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """As httptools calls it."""
        status = self._parser.get_status_code()
        answer = self._answer
        if status < 200 or answer is None:  # an interim answer, or one to nothing
            return
        if self._timer:
            self._timer.cancel()
        self._answer = None
        if not self._parser.should_keep_alive():
            self.close()
        if not answer.done():
            answer.set_result(Response(status, b"".join(self._body)))

    def _fail(self, kind: str) -> None:
        if self._timer:
            self._timer.cancel()
        answer, self._answer = self._answer, None
        self.close()
        if answer and not answer.done():
            answer.set_exception(ConnectionFailedError(kind))


async def connect(address: Address, timeout_seconds: float) -> Connection:
    """An open connection. Raises ConnectionFailedError."""
    context = _trusted() if address.tls else None
    loop: Any = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_seconds):
            _, connection = await loop.create_connection(
                Connection, address.host, address.port, ssl=context
            )
    except TimeoutError:
        raise ConnectionFailedError(timed_out(timeout_seconds)) from None
    except OSError as error:
        raise ConnectionFailedError(kind_of(error)) from None
    return connection  # type: ignore[no-any-return]


@functools.cache
def _trusted() -> ssl.SSLContext:
    """One for all connections: reading the certificates of those who are trusted takes longer than a request."""
    return ssl.create_default_context()


def timed_out(seconds: float) -> str:
    """What an answer that does not come is counted by."""
    return f"no answer within {seconds:g} s"


def kind_of(error: Exception) -> str:
    """What a connection's error is counted by."""
    if isinstance(error, socket.gaierror):
        return "the host's name is not known"
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "connection refused"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return CLOSED
    if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
        return "too many open files here: raise `ulimit -n`, or lower --connections"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
