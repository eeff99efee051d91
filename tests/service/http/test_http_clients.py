"""Clients that disconnect, pipeline or ask for HTTP/2, over real sockets."""

import asyncio
import json
import logging

import pytest
from asgi_application import until
from colour_model import labels, plain
from server_process import PATIENCE_SECONDS, request_head
from socket_application import connect, listening, read_response

from model_store.store import ModelStore
from service.http import protocol

pytestmark = pytest.mark.anyio
LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = {
    "Connection": "Upgrade, HTTP2-Settings",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA",
}


def padded(colour: str, size: int) -> bytes:
    """An image of `size` bytes; decoders ignore the bytes after its end."""
    image = plain(colour)
    return image + bytes(size - len(image))


def request_with(body: bytes) -> bytes:
    return request_head(Content_Length=len(body)) + body


@pytest.mark.parametrize("size", [1_000, 100_000, 300_000, 3_000_000])
async def test_disconnect_is_noticed_whatever_the_size_of_the_body(
    colour_store: ModelStore, size: int
) -> None:
    """uvicorn pauses reading while a large body waits, and would not notice the disconnect."""
    async with listening(colour_store.root) as (application, port):
        model = application.hold_model()
        served = application.served()
        body = padded("red", size)
        _, first = await connect(port)
        first.write(request_head(Content_Length=len(body)) + body)
        await model.begun()
        _, leaver = await connect(port)
        leaver.write(request_head(Content_Length=len(body)) + body)
        await asyncio.wait_for(until(lambda: served.admitted.images == 2), PATIENCE_SECONDS)
        leaver.close()
        await asyncio.wait_for(until(lambda: served.admitted.images == 1), PATIENCE_SECONDS)
        model.gate.set()
        await asyncio.wait_for(until(lambda: served.admitted.images == 0), PATIENCE_SECONDS)
        first.close()
    assert model.sizes == [1]


PIPELINED = {
    "two small": request_with(plain("green")) * 2,
    "one large": request_with(padded("green", 3_000_000)),
    "half of a large one": request_with(padded("green", 3_000_000))[:1_000_000],
}


@pytest.mark.parametrize("behind", PIPELINED)
async def test_disconnect_of_a_client_that_pipelines_is_noticed_at_once(
    colour_store: ModelStore,
    behind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its running request ends with 499 long before the deadline; the others never run."""
    caplog.set_level(logging.INFO)
    async with listening(colour_store.root, deadline_seconds=10 * PATIENCE_SECONDS) as (app, port):
        model, loaded = app.hold_model(), app.served()
        _, writer = await connect(port)
        writer.write(request_with(plain("red")) + PIPELINED[behind])
        await model.begun()
        writer.close()
        await asyncio.wait_for(until(lambda: loaded.admitted.images == 0), PATIENCE_SECONDS)
        counted = app.app._metrics.registry.get_sample_value
        outcome = {"model": "colours", "outcome": "client_closed_request"}
        await asyncio.wait_for(
            until(lambda: counted("resident_requests_total", outcome) == 1), PATIENCE_SECONDS
        )
        model.gate.set()
    assert model.sizes == [1]
    lines = [record.getMessage() for record in caplog.records if "POST" in record.getMessage()]
    assert [line.split()[3] for line in lines] == ["499"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("bound", ["MAX_PIPELINED_REQUESTS", "MAX_PIPELINED_BYTES", None])
async def test_client_that_pipelines_is_answered_in_order(
    colour_store: ModelStore, bound: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond either bound reading pauses until the next response, which bounds memory."""
    if bound:
        monkeypatch.setattr(protocol, bound, 0)
    colours = ["red", "green", "blue"] * 4
    async with listening(colour_store.root) as (app, port):
        model = app.hold_model()
        reader, writer = await connect(port)
        writer.write(request_with(padded("red", 1_000)))
        await model.begun()
        writer.write(b"".join(request_with(padded(colour, 300_000)) for colour in colours))
        model.gate.set()
        for colour in ["red", *colours]:
            status, _, body = await read_response(reader)
            assert (status, labels(json.loads(body)["results"])) == (200, [colour])
        assert protocol.BoundedHttpProtocol._all_pipelined_bytes == 0
        writer.close()


@pytest.mark.parametrize("pieces", ["split", "one", "bytes"])
async def test_request_to_upgrade_to_http2_is_answered_in_http1(
    colour_store: ModelStore, pieces: str
) -> None:
    """Java's clients send it with every request; the body is read and the connection is kept."""
    body = plain("red")
    head = request_head(Content_Length=len(body), **UPGRADE)
    parts = {
        "split": [head, body],
        "one": [head + body],
        "bytes": [bytes([byte]) for byte in head + body],
    }[pieces]
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        for part in parts:
            writer.write(part)
            await writer.drain()
            for _ in range(20):  # turns of the event loop, in which the server reads
                await asyncio.sleep(0)
        assert (await read_response(reader))[0] == 200
        writer.write(request_head(Content_Length=len(body)) + body)
        assert (await read_response(reader))[0] == 200
        writer.close()


@pytest.mark.parametrize(("length", "closes"), [(1_000_000, True), (1_000, False)])
async def test_connection_is_closed_if_much_of_a_rejected_body_is_unread(
    colour_store: ModelStore, length: int, closes: bool
) -> None:
    """A small rest is drained instead, and the connection is kept."""
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        writer.write(request_head("/v1/models/nobody/predict", Content_Length=length))
        status, head, _ = await read_response(reader)
        assert status == 404
        assert (b"connection: close" in head.lower()) is closes
        if closes:
            assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) == b""
        else:
            writer.write(b"x" * (length - 1))
            await writer.drain()
            writer.write(b"x" + LIVE)
            assert (await read_response(reader))[0] == 200
        writer.close()
