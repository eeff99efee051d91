"""Clients over real sockets, held against a model at a gate: those that leave, that pipeline, that ask for HTTP/2."""

import asyncio
import logging

import pytest
from asgi_application import until
from colour_model import plain
from prometheus_client import CollectorRegistry
from server_process import PATIENCE_SECONDS, request_head
from socket_application import connect, listening, read_response

from model_store.store import ModelStore

pytestmark = pytest.mark.anyio
UPGRADE = {
    "Connection": "Upgrade, HTTP2-Settings",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA",
}


def padded(colour: str, size: int) -> bytes:
    """An image with so many bytes behind its end, which decoders do not look at."""
    image = plain(colour)
    return image + bytes(size - len(image))


@pytest.mark.parametrize("size", [1_000, 100_000, 300_000, 3_000_000])
async def test_a_client_that_leaves_is_noticed_whatever_it_sent(
    colour_store: ModelStore, size: int
) -> None:
    """uvicorn stops reading while a large body waits, and would not see the end of the connection."""
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


async def test_pipelined_requests_of_a_client_that_left_are_counted_and_no_fault(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that is being answered ends as one whose client has closed, with its line and its count, and nothing is raised."""
    with caplog.at_level(logging.INFO):
        async with listening(colour_store.root) as (application, port):
            model = application.hold_model()
            body = plain("red")
            _, writer = await connect(port)
            writer.write((request_head(Content_Length=len(body)) + body) * 3)
            await model.begun()
            writer.close()
            await asyncio.wait_for(
                until(lambda: application.served().admitted.images == 0), PATIENCE_SECONDS
            )
            model.gate.set()
            metrics: CollectorRegistry = application.app._metrics.registry  # type: ignore[attr-defined]
            labels = {"model": "colours", "outcome": "client_closed_request"}
            await asyncio.wait_for(
                until(lambda: bool(metrics.get_sample_value("resident_requests_total", labels))),
                PATIENCE_SECONDS,
            )
    assert any(" 499 " in record.getMessage() for record in caplog.records)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("pieces", ["split", "one", "bytes"])
async def test_a_client_that_asks_for_http2_is_answered_in_http1(
    colour_store: ModelStore, pieces: str
) -> None:
    """Java's clients do so with every request: the body belongs to the request, and the connection lives on."""
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
            await asyncio.sleep(0.02 if pieces == "split" else 0)
        assert (await read_response(reader))[0] == 200
        writer.write(request_head(Content_Length=len(body)) + body)
        assert (await read_response(reader))[0] == 200
        writer.close()


@pytest.mark.parametrize(("length", "closes"), [(1_000_000, True), (1_000, False)])
async def test_a_refused_client_is_not_listened_to_for_ever(
    colour_store: ModelStore, length: int, closes: bool
) -> None:
    """Where much of the body has not come yet, the connection ends with the answer."""
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        writer.write(request_head("/v1/models/nobody/predict", Content_Length=length))
        status, head, _ = await read_response(reader)
        assert status == 404
        assert (b"connection: close" in head.lower()) is closes
        if closes:
            assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) == b""
        writer.close()
