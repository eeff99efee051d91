"""Rejections while the queue is full, before a request is decoded, on a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from asgi_application import Application, until
from colour_model import plain
from server_process import request_head
from socket_application import connect, listening, read_response, read_to_end

from model_store.store import ModelStore
from service.http import access_log
from service.http.access_log import LogRateLimit
from service.http.predict_endpoint import PredictEndpoint
from service.http.request_limits import MAX_UNREAD_BYTES
from service.key_changes import add_key

pytestmark = pytest.mark.anyio
RED = plain("red")
PLAIN = request_head(Content_Length=len(RED)) + RED
CHUNKED = request_head(Transfer_Encoding="chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(RED), RED)


class OneSecond(LogRateLimit):
    """A limit for which the current second never ends."""

    def __init__(self, records_per_second: int) -> None:
        super().__init__(records_per_second)
        self._second = 1

    def allows(self, second: int) -> bool:  # noqa: ARG002
        return super().allows(1)

    def leaves_out(self, second: int) -> bool:  # noqa: ARG002
        return super().leaves_out(1)


@pytest.fixture(autouse=True)
def log_limit(monkeypatch: pytest.MonkeyPatch) -> OneSecond:
    """The limit of the access log. By default no rejection is logged."""
    limit = OneSecond(0)
    monkeypatch.setattr(access_log, "rate_limit", limit)
    return limit


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that got a task."""
    paths = []
    handle = PredictEndpoint.__call__

    async def record(self: PredictEndpoint, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            paths.append(scope["path"])
        await handle(self, scope, receive, send)

    monkeypatch.setattr(PredictEndpoint, "__call__", record)
    return paths


@asynccontextmanager
async def full_queue(root: Path, **settings: Any) -> AsyncIterator[tuple[Application, int]]:
    """A server whose only place is taken by an image, which is answered when the block ends."""
    async with listening(root, max_queue_size=1, **settings) as (application, port):
        gated = application.hold_model()
        reader, writer = await connect(port)
        writer.write(PLAIN)
        await gated.begun()
        try:
            yield application, port
        finally:
            gated.gate.set()
        assert (await read_response(reader))[0] == 200
        writer.close()


def fields(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")[1:-2]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


async def test_response_is_that_of_a_request_with_a_task(
    colour_store: ModelStore, tasks: list[str]
) -> None:
    """Both responses are equal except for date, timing and request id. Both are counted."""
    async with full_queue(colour_store.root) as (application, port):
        reader, writer = await connect(port)
        writer.write(PLAIN)
        early = await read_response(reader)
        assert len(tasks) == 1
        writer.write(CHUNKED)
        late = await read_response(reader)
        assert len(tasks) == 2
        writer.close()
        metrics = application.app._metrics
        assert metrics.outcomes() == {"overloaded": 2}
        assert metrics._rejections == {("colours", "queue_full"): 2}
    assert (early[0], early[2]) == (late[0], late[2])
    assert early[0] == 429
    assert orjson.loads(early[2])["code"] == "overloaded"
    first, second = fields(early[1]), fields(late[1])
    assert int(first["retry-after"]) >= 1
    assert second.pop("connection") == "close"  # its body is not read
    for name in ("date", "server-timing", "x-request-id"):
        assert first.pop(name)
        assert second.pop(name)
    assert first == second


async def test_connection_stays_open(colour_store: ModelStore, tasks: list[str]) -> None:
    """Pipelined requests are rejected in order, and the connection is served once there is room."""
    async with listening(colour_store.root, max_queue_size=1) as (application, port):
        gated = application.hold_model()
        holding_reader, holding = await connect(port)
        holding.write(PLAIN)
        await gated.begun()
        reader, writer = await connect(port)
        names = ["first", "second", "third"]
        heads = [request_head(Content_Length=len(RED), X_Request_Id=name) for name in names]
        writer.write(b"".join(head + RED for head in heads))
        for name in names:
            status, head, _ = await read_response(reader)
            assert (status, fields(head)["x-request-id"]) == (429, name)
        assert len(tasks) == 1
        gated.gate.set()
        assert (await read_response(holding_reader))[0] == 200
        await until(lambda: not application.served().admitted.images)
        writer.write(PLAIN)
        assert (await read_response(reader))[0] == 200
        holding.close()
        writer.close()


async def test_body_that_comes_later_is_dropped(colour_store: ModelStore, tasks: list[str]) -> None:
    """The response to the head comes first, and the next request on the connection is read."""
    async with full_queue(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        body = bytes(MAX_UNREAD_BYTES)
        for _ in range(2):
            writer.write(request_head(Content_Length=len(body), Expect="100-continue"))
            assert (await read_response(reader))[0] == 429
            writer.write(body)
        assert len(tasks) == 1
        writer.write(request_head(Content_Length=len(body) + 1))
        status, head, _ = await read_response(reader)
        assert (status, fields(head)["connection"]) == (429, "close")
        assert await read_to_end(reader) == b""
        writer.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request_head("/v1/models/colours/versions/2/predict", Content_Length=len(RED)), 404),
        (request_head("/v1/predict?alias=nobody", Content_Length=len(RED)), 404),
        (request_head("/v1/predict?top_k=none", Content_Length=len(RED)), 400),
        (request_head("/v1/models/nobody/predict", Content_Length=len(RED)), 404),
        (PLAIN[: -len(RED)].replace(b"POST", b"GET"), 405),
    ],
    ids=["version", "alias", "query", "model", "method"],
)
async def test_other_errors_come_first(
    colour_store: ModelStore, tasks: list[str], head: bytes, status: int
) -> None:
    """An invalid request gets its own error, although the queue is full."""
    async with full_queue(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        writer.write(head + RED)
        assert (await read_response(reader))[0] == status
        assert len(tasks) == 2
        writer.close()


async def test_key_is_checked_first(colour_store: ModelStore, tmp_path: Path) -> None:
    """Without a key the answer is 401, and with one 429."""
    path = tmp_path / "keys.json"
    secret = add_key(path, "app", ["predict"])
    key = {"Authorization": f"Bearer {secret}"}
    async with listening(colour_store.root, max_queue_size=1, keys=path) as (application, port):
        gated = application.hold_model()
        holding_reader, holding = await connect(port)
        holding.write(request_head(Content_Length=len(RED), **key) + RED)
        await gated.begun()
        reader, writer = await connect(port)
        for headers, status in (({}, 401), (key, 429)):
            writer.write(request_head(Content_Length=len(RED), **headers) + RED)
            assert (await read_response(reader))[0] == status
        gated.gate.set()
        assert (await read_response(holding_reader))[0] == 200
        holding.close()
        writer.close()


async def test_other_refusals_come_first(colour_store: ModelStore) -> None:
    """Another host is refused, and requests beyond the limit of a client are counted."""
    settings = {"allowed_hosts": "", "client_requests_per_second": 2}
    async with full_queue(colour_store.root, **settings) as (_, port):
        reader, writer = await connect(port)
        writer.write(PLAIN)
        status, _, body = await read_response(reader)
        assert (status, orjson.loads(body)["code"]) == (429, "overloaded")
        writer.write(PLAIN)
        status, _, body = await read_response(reader)
        assert (status, orjson.loads(body)["code"]) == (429, "rate_limited")
        writer.close()
        reader, writer = await connect(port)
        writer.write(PLAIN.replace(b"Host: localhost", b"Host: evil.example"))
        assert (await read_response(reader))[0] == 421
        writer.close()


async def test_page_of_another_host_can_read_the_rejection(colour_store: ModelStore) -> None:
    """The rejection has the CORS header."""
    origin = "https://example.org"
    async with full_queue(colour_store.root, cors_origins=origin) as (_, port):
        reader, writer = await connect(port)
        writer.write(request_head(Content_Length=len(RED), Origin=origin) + RED)
        status, head, _ = await read_response(reader)
        assert (status, fields(head)["access-control-allow-origin"]) == (429, origin)
        writer.close()


async def test_rejections_are_logged_up_to_the_rate(
    colour_store: ModelStore, tasks: list[str], log_limit: OneSecond
) -> None:
    """A rejection that is to be logged gets a task."""
    log_limit.records_per_second = 2
    async with full_queue(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        for _ in range(5):
            writer.write(PLAIN)
            assert (await read_response(reader))[0] == 429
        assert len(tasks) == 3
        assert log_limit._left_out == 3
        writer.close()
