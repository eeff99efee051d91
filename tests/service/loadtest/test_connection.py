"""The load generator's own connection, against servers that behave and servers that do not."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from service.loadtest.connection import (
    CLOSED,
    Address,
    Connection,
    ConnectionFailedError,
    Response,
    connect,
)

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
PATIENCE_SECONDS = 30.0
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Connection]:
    """A connection to a server that does this with each request."""

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


def saying(*parts: bytes) -> Answer:
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
async def test_answers_are_read_whole_one_after_the_other(
    parts: tuple[bytes, ...], expected: Response
) -> None:
    """In however many pieces an answer comes, it is one, and the connection carries the next."""
    async with serving(saying(*parts)) as connection:
        for _ in range(3):
            assert await connection.ask(REQUEST, PATIENCE_SECONDS) == expected
        assert connection.is_open


async def test_connection_that_the_server_ends_is_not_used_again() -> None:
    """An answer that says `Connection: close` is an answer, and the last one."""
    async with serving(
        saying(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    ) as connection:
        assert (await connection.ask(REQUEST, PATIENCE_SECONDS)).status == 200
        assert not connection.is_open
        with pytest.raises(ConnectionFailedError, match=CLOSED):
            await connection.ask(REQUEST, PATIENCE_SECONDS)


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
        (saying(b"SSH-2.0-OpenSSH\r\n"), PATIENCE_SECONDS, "the answer is no HTTP"),
    ],
)
async def test_what_is_no_answer_has_a_kind(answer: Answer, seconds: float, kind: str) -> None:
    """A server that closes half-way, says nothing, or speaks otherwise: each is counted as what it is, and the connection ends."""
    async with serving(answer) as connection:
        with pytest.raises(ConnectionFailedError) as caught:
            await connection.ask(REQUEST, seconds)
        assert caught.value.kind == kind
        assert not connection.is_open


async def test_port_where_nothing_listens_is_refused() -> None:
    """No server is a kind of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionFailedError, match="connection refused"):
        await connect(Address("127.0.0.1", port), PATIENCE_SECONDS)
