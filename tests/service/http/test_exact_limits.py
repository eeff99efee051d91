"""Limits of heads, chunk framing and unread bodies, to the byte."""

import asyncio

import pytest
from asgi_application import until
from colour_model import plain
from server_process import request_head
from socket_application import connect, listening, read_to_end
from socket_application import read_response as read_answer

from model_store.store import ModelStore
from service.http.protocol import BoundedHttpProtocol
from service.http.request_limits import MAX_HEAD_BYTES, MAX_UNREAD_BYTES

pytestmark = pytest.mark.anyio
RED = plain("red")
LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"


async def send_parsed(
    writer: asyncio.StreamWriter, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Send bytes, and wait until the server has parsed them."""
    count, parse = 0, BoundedHttpProtocol.parse

    def parse_and_count(self: BoundedHttpProtocol, data: bytes) -> None:
        nonlocal count
        parse(self, data)
        count += len(data)

    with monkeypatch.context() as patch:
        patch.setattr(BoundedHttpProtocol, "parse", parse_and_count)
        writer.write(piece)
        await until(lambda: count == len(piece))


@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 400)])
@pytest.mark.parametrize("first_chunk", [b"", b"1\r\n%b\r\n" % RED[:1]], ids=["first", "later"])
async def test_limit_of_framing_is_exact(
    colour_store: ModelStore,
    first_chunk: bytes,
    excess: int,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 KiB of a chunk extension pass, and a byte more does not."""
    rest = RED[1:] if first_chunk else RED
    size = b"%x;" % len(rest)
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        head = request_head(Transfer_Encoding="chunked")
        await send_parsed(writer, head + first_chunk, monkeypatch)
        extension = b"x" * (MAX_HEAD_BYTES + excess - len(size))
        await send_parsed(writer, size + extension, monkeypatch)
        writer.write(b"\r\n" + rest + b"\r\n0\r\n\r\n")
        assert (await read_answer(reader))[0] == status
        writer.close()


@pytest.mark.parametrize("excess", [0, 1])
async def test_limit_of_an_unread_body_is_exact(
    colour_store: ModelStore, excess: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 KiB are dropped and the connection stays open; a byte more closes it."""
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        length = MAX_UNREAD_BYTES + 2
        await send_parsed(writer, LIVE + b"Content-Length: %d\r\n\r\n" % length, monkeypatch)
        assert (await read_answer(reader))[0] == 200
        await send_parsed(writer, b"x" * (MAX_UNREAD_BYTES + excess), monkeypatch)
        if excess:
            assert await read_to_end(reader) == b""
        else:
            writer.write(b"xx" + LIVE + b"\r\n")
            assert (await read_answer(reader))[0] == 200
        writer.close()


@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 400)])
async def test_body_that_arrives_with_its_head_does_not_count_for_it(
    colour_store: ModelStore, excess: int, status: int
) -> None:
    """A head of 64 KiB passes, and one of a byte more does not."""
    begin = request_head(Content_Length=len(RED))[:-2] + b"X-Filler: "
    head = begin + b"f" * (MAX_HEAD_BYTES + excess - len(begin) - 4) + b"\r\n\r\n"
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        writer.write(head + RED)
        assert (await read_answer(reader))[0] == status
        writer.close()


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 400)])
async def test_bound_of_a_head_is_exact(
    colour_store: ModelStore, pieces: int, excess: int, status: int
) -> None:
    """A head of 64 KiB passes and one of a byte more does not, however it arrives."""
    begin = LIVE + b"X-Filler: "
    head = begin + b"f" * (MAX_HEAD_BYTES + excess - len(begin) - 4) + b"\r\n\r\n"
    size = -(-len(head) // pieces)
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        for start in range(0, len(head), size):
            writer.write(head[start : start + size])
            await writer.drain()
            for _ in range(10):
                await asyncio.sleep(0)
        assert (await read_answer(reader))[0] == status
        writer.close()
