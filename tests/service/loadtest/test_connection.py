"""The load generator's connection against servers that behave well and badly."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from service.loadtest.connection import (
    CLOSED,
    Address,
    Connection,
    NoResponseError,
    Response,
    connect,
)

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
PATIENCE_SECONDS = 60.0
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Connection]:
    """A connection to a server that calls `answer` for each request."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        connection = await connect(
            Address("127.0.0.1", server.sockets[0].getsockname()[1]), PATIENCE_SECONDS
        )
        yield connection
        connection.close()


def sending(*parts: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",), Response(200, b"ok")),
        (
            (b"HTTP/1.1 429 Too Many Requests\r\nContent-Le", b"ngth: 3\r\n\r\nn", b"ot"),
            Response(429, b"not"),
        ),
        (
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
                b"2\r\nbc\r\n0\r\n\r\n",
            ),
            Response(200, b"abc"),
        ),
        (
            (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
            Response(204, b""),
        ),
    ],
)
async def test_responses_are_read_completely_one_after_the_other(
    parts: tuple[bytes, ...], expected: Response
) -> None:
    """A response may arrive in any pieces, and the connection is used again."""
    async with serving(sending(*parts)) as connection:
        for _ in range(3):
            assert await connection.send(REQUEST, PATIENCE_SECONDS) == expected
        assert connection.is_open


async def test_connection_closed_by_the_server_is_not_used_again() -> None:
    """A response with `Connection: close` is the last one."""
    async with serving(
        sending(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    ) as connection:
        assert (await connection.send(REQUEST, PATIENCE_SECONDS)).status == 200
        assert not connection.is_open
        with pytest.raises(NoResponseError, match=CLOSED):
            await connection.send(REQUEST, PATIENCE_SECONDS)


async def closing(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf")
    writer.close()


async def silent(_: asyncio.StreamWriter) -> None:
    pass


@pytest.mark.parametrize(
    ("answer", "seconds", "kind"),
    [
        (closing, PATIENCE_SECONDS, CLOSED),
        (silent, 0.01, "no answer within 0.01 s"),
        (sending(b"SSH-2.0-OpenSSH\r\n"), PATIENCE_SECONDS, "the response is not HTTP"),
    ],
)
async def test_failed_responses_are_counted_by_kind(
    answer: Answer, seconds: float, kind: str
) -> None:
    """The connection is closed after a half response, silence, or another protocol."""
    async with serving(answer) as connection:
        with pytest.raises(NoResponseError) as caught:
            await connection.send(REQUEST, seconds)
        assert caught.value.kind == kind
        assert not connection.is_open


async def test_closed_port_is_a_refused_connection() -> None:
    """The kind of this failure is its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(NoResponseError, match="connection refused"):
        await connect(Address("127.0.0.1", port), PATIENCE_SECONDS)
