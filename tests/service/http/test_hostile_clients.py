"""Clients that send without end, do not read, or break the rules of HTTP."""

import asyncio
import http.client
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from asgi_application import Application
from colour_model import labels, plain
from server_process import PATIENCE_SECONDS, ServerProcess, read_response, request_head
from socket_application import connect, listening, read_to_end
from socket_application import read_response as read_answer

from model_store.store import ModelStore
from service.http import bounded_transport, protocol
from service.http.protocol import MAX_PIPELINED_REQUESTS, BoundedHttpProtocol
from service.key_changes import add_key

pytestmark = pytest.mark.anyio
RED = plain("red")
REQUEST = request_head(Content_Length=len(RED)) + RED
CHUNKED_RED = b"%x\r\n%b\r\n0\r\n" % (len(RED), RED)
LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"


async def send_until_closed(writer: asyncio.StreamWriter, piece: bytes, times: int) -> bool:
    """Send a piece repeatedly; returns whether the server closed the connection before the end."""
    try:
        for _ in range(times):
            writer.write(piece)
            await asyncio.wait_for(writer.drain(), PATIENCE_SECONDS)
    except (ConnectionError, TimeoutError):
        return True
    return False


@asynccontextmanager
async def with_timeout(
    colour_store: ModelStore, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.3
) -> AsyncIterator[tuple[Application, int]]:
    """A server that gives its clients little time."""
    monkeypatch.setattr(BoundedHttpProtocol, "timeout_seconds", seconds)
    async with listening(colour_store.root) as served:
        yield served


def test_authorization_in_a_trailer_is_ignored(
    colour_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Only what is in the head of a request is a header."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    secret = add_key(keys, "client", ("predict",))

    async def check() -> None:
        async with listening(colour_store.root, keys=keys) as (_, port):
            for trailer, head, expected in (
                (f"Authorization: Bearer {secret}\r\n", {}, 401),
                ("", {"Authorization": f"Bearer {secret}"}, 200),
            ):
                reader, writer = await connect(port)
                head_bytes = request_head(Transfer_Encoding="chunked", **head)
                writer.write(head_bytes + CHUNKED_RED + trailer.encode() + b"\r\n")
                assert (await read_answer(reader))[0] == expected
                writer.close()

    asyncio.run(check())


@pytest.mark.parametrize(
    "begin",
    [
        request_head(Transfer_Encoding="chunked") + CHUNKED_RED,
        LIVE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
        LIVE + b"Transfer-Encoding: chunked\r\n\r\n1;",
    ],
    ids=["trailers of a prediction", "trailers of a route without a body", "chunk extension"],
)
async def test_endless_framing_of_a_body_is_cut_off(
    colour_store: ModelStore, begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trailers and chunk extensions are bounded as heads are."""
    monkeypatch.setattr(bounded_transport, "MAX_DISCARDED_BYTES", 1024 * 1024)
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        writer.write(begin)
        assert await send_until_closed(writer, b"x: y\r\n" * 10_000, 500)
        received = await read_to_end(reader)
        assert not received or received.startswith((b"HTTP/1.1 400", b"HTTP/1.1 200"))
        assert protocol.BoundedHttpProtocol._all_pipelined_bytes == 0
        writer.close()


@pytest.mark.parametrize("rest", [b"", b"1\r\nx\r\n"], ids=["silent", "slow"])
async def test_body_that_nobody_reads_is_timed(
    colour_store: ModelStore, rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends although the client goes on sending."""
    async with with_timeout(colour_store, monkeypatch) as (_, port):
        reader, writer = await connect(port)
        writer.write(LIVE + b"Transfer-Encoding: chunked\r\n\r\n")
        assert (await read_answer(reader))[0] == 200
        end = asyncio.create_task(read_to_end(reader))
        while not end.done():
            writer.write(rest)
            await asyncio.wait({end}, timeout=0.02)
        assert await end == b""
        writer.close()


async def test_few_of_many_pipelined_requests_are_held(
    colour_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are answered, in order, and most wait as bytes: 19 MB of them would take 1.8 GB."""
    count = 5_000
    longest = 0
    parse = BoundedHttpProtocol.parse

    def parse_and_count(self: BoundedHttpProtocol, data: bytes) -> None:
        nonlocal longest
        parse(self, data)
        longest = max(longest, len(self.pipeline))

    monkeypatch.setattr(BoundedHttpProtocol, "parse", parse_and_count)
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        last = b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"
        writer.write((LIVE + b"\r\n") * (count - 1) + last)
        for _ in range(count - 1):
            assert (await read_answer(reader))[0] == 200
        assert (await read_answer(reader))[0] == 404
        writer.close()
    assert MAX_PIPELINED_REQUESTS <= longest <= MAX_PIPELINED_REQUESTS + 60


async def test_many_pipelined_upgrades_are_answered(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is one request without its upgrade; none of them is worth a warning."""
    upgrade = LIVE + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        writer.write(upgrade * 1_000)
        for _ in range(1_000):
            assert (await read_answer(reader))[0] == 200
        writer.close()
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_only_connect_is_rejected_for_its_upgrade(colour_store: ModelStore) -> None:
    """Other methods have the answers of their route."""
    async with listening(colour_store.root) as (_, port):
        for method, status in ((b"CHECKOUT", 405), (b"DELETE", 405), (b"CONNECT", 400)):
            reader, writer = await connect(port)
            target = b"a:1" if method == b"CONNECT" else b"/health/live"
            writer.write(method + b" " + target + b" HTTP/1.1\r\nHost: a\r\n")
            writer.write(b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
            assert (await read_answer(reader))[0] == status
            writer.close()


async def test_connection_close_beside_an_upgrade_is_honoured(colour_store: ModelStore) -> None:
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        writer.write(LIVE + b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n")
        status, head, _ = await read_answer(reader)
        assert (status, b"connection: close" in head) == (200, True)
        assert await read_to_end(reader) == b""
        writer.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Content-Length: " + b"0" * 4_400 + b"5", 400),
        (b"Content-Length: " + b"9" * 30, 400),
        (b"Transfer-Encoding: gzip, chunked", 501),
        (b"Transfer-Encoding: br, chunked", 501),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501),
        (b"Transfer-Encoding: Chunked", 200),
    ],
)
@pytest.mark.parametrize("route", [b"POST /v1/predict", b"GET /health/live"], ids=["body", "none"])
async def test_length_and_coding_of_a_body_are_checked(
    colour_store: ModelStore, headers: bytes, status: int, route: bytes
) -> None:
    """What the service cannot decode exactly is refused (RFC 9112, section 6)."""
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        writer.write(route + b" HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n\r\n")
        writer.write(CHUNKED_RED + b"\r\n")
        assert (await read_answer(reader))[0] == status
        writer.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/nobody/predict", 404),
        ("/v1/predict", 413),
        ("/nowhere", 404),
        ("/v1/models/colours/versions/1/load", 403),
    ],
)
def test_client_that_sends_first_reads_its_refusal(
    server: ServerProcess, path: str, status: int
) -> None:
    """http.client reads only after it has sent all of its body."""
    body = bytes(33 * 1024 * 1024)
    for _ in range(5):
        client = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
        client.request("POST", path, body)
        assert client.getresponse().status == status
        client.close()


@pytest.mark.parametrize("garbage", [b"garbage\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 9])
@pytest.mark.parametrize("count", [1, 3])
async def test_request_before_garbage_keeps_its_response(
    colour_store: ModelStore, garbage: bytes, count: int
) -> None:
    """The garbage gets a 400 after it, and the connection ends."""
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        writer.write(REQUEST * count + garbage)
        for _ in range(count):
            status, _, body = await read_answer(reader)
            assert (status, labels(json.loads(body)["results"])) == (200, ["red"])
        assert (await read_answer(reader))[0] == 400
        writer.write_eof()
        assert await read_to_end(reader) == b""
        writer.close()


async def test_nothing_behind_garbage_is_parsed(colour_store: ModelStore) -> None:
    """Not even if it has arrived already; there is one 400, and it is the last response."""
    request = LIVE + b"\r\n"
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        writer.write(request * 2 + b"garbage\r\n\r\n" + request * 2 * MAX_PIPELINED_REQUESTS)
        writer.write_eof()
        received = await read_to_end(reader)
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"400"]
        writer.close()


async def test_garbage_in_a_body_is_a_400(colour_store: ModelStore) -> None:
    """Of the request that has it; the one before is answered."""
    async with listening(colour_store.root) as (_, port):
        reader, writer = await connect(port)
        writer.write(REQUEST + request_head(Transfer_Encoding="chunked") + b"nonsense\r\n")
        assert [(await read_answer(reader))[0] for _ in range(2)] == [200, 400]
        writer.close()
        reader, writer = await connect(port)
        writer.write(request_head(Transfer_Encoding="chunked") + b"5\r\nhello\r\nnonsense\r\n")
        assert (await read_answer(reader))[0] == 400
        writer.close()


@pytest.mark.parametrize("count", [1, 3, 100])
async def test_half_closed_client_gets_its_responses(colour_store: ModelStore, count: int) -> None:
    """A client may end its output after its last request; then the server ends the connection."""
    async with listening(colour_store.root) as (application, port):
        model = application.hold_model()
        reader, writer = await connect(port)
        writer.write(REQUEST * count)
        writer.write_eof()
        await model.begun()
        model.gate.set()
        received = await read_to_end(reader)
        assert received.count(b"HTTP/1.1 200 OK") == count
        assert received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.slow
async def test_client_that_does_not_read_is_disconnected(
    colour_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its responses would be held for ever."""
    async with with_timeout(colour_store, monkeypatch) as (application, port):
        connections = BoundedHttpProtocol.connection_lost
        lost = asyncio.Event()

        def connection_lost(self: BoundedHttpProtocol, exc: Exception | None) -> None:
            connections(self, exc)
            lost.set()

        monkeypatch.setattr(BoundedHttpProtocol, "connection_lost", connection_lost)
        client = socket.create_connection(("127.0.0.1", port))
        client.setblocking(False)
        sent = asyncio.create_task(
            asyncio.get_running_loop().sock_sendall(
                client, b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 2_000
            )
        )
        await asyncio.wait_for(lost.wait(), PATIENCE_SECONDS)
        sent.cancel()
        client.close()
        assert application.registry.ready


def test_long_input_is_shortened_in_the_answer(server: ServerProcess) -> None:
    """A detail names what is wrong, and does not repeat megabytes of it."""
    cases: list[tuple[str, dict[str, str], bytes]] = [
        ("/v1/predict", {"Content-Type": "application/json"}, b'{"%b": 1}' % (b"k" * 1_000_000)),
        ("/v1/predict", {"Content-Type": "x/" + "y" * 20_000}, b"text"),
        ("/" + "n" * 20_000, {}, b""),
        ("/v1/models/" + "n" * 20_000 + "/predict", {}, b""),
        ("/v1/models/colours/versions/" + "9" * 20_000 + "/predict", {}, b""),
        ("/v1/predict?priority=" + "9" * 20_000, {}, b""),
    ]
    for path, headers, body in cases:
        with server.connect() as connection:
            connection.sendall(request_head(path, Content_Length=len(body), **headers) + body)
            answer = read_response(connection)
        assert 400 <= answer.status_code < 500
        assert len(answer.content) < 2_000, answer.content[:200]
    assert max(map(len, server.stderr.text.splitlines())) < 2_000
