"""The HTTP protocol: limits of the head, `DirectTransport`, idle connections."""

import asyncio
import gc
import socket

import pytest
import socket_application
from colour_model import labels, plain
from server_process import PATIENCE_SECONDS, ServerProcess, read_response, request_head, running
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from model_store.store import ModelStore
from service.http.security_headers import SECURITY_HEADERS

RED = plain("red")
HEADERS = [
    *("date", *(name.lower() for name, _ in SECURITY_HEADERS), "content-type", "content-length"),
    *("model-name", "model-version", "model-digest", "server-timing", "x-request-id"),
]


def send_until_refused(connection: socket.socket, chunk: bytes, times: int) -> bytes:
    """Send the chunk repeatedly; returns what the server sent before it closed the connection."""
    try:
        for _ in range(times):
            connection.sendall(chunk)
        connection.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    ("begin", "chunk"),
    [
        (b"POST /v1/predict HTTP/1.1\r\n", b"x: y\r\n" * 4096),
        (b"GET /", b"a" * 65536),
        (b"GET / HTTP/1.1\r\nx: ", b"a" * 65536),
    ],
    ids=["headers", "url", "one header"],
)
def test_endless_head_is_rejected(
    limited_server: ServerProcess, begin: bytes, chunk: bytes
) -> None:
    """64 MB of headers, URL or one header are cut off early, and the next client is served."""
    with limited_server.connect() as connection:
        connection.sendall(begin)
        answer = send_until_refused(connection, chunk, 1000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    with limited_server.connect() as connection:
        connection.sendall(request_head(Content_Length=len(RED)) + RED)
        assert labels(read_response(connection).json()["results"]) == ["red"]


def test_bound_of_the_head_is_per_request(limited_server: ServerProcess) -> None:
    """Several large heads on one connection are all answered."""
    with limited_server.connect() as connection:
        for _ in range(4):
            connection.sendall(request_head(Content_Length=len(RED), X_Filler="f" * 40_000) + RED)
            assert labels(read_response(connection).json()["results"]) == ["red"]


@pytest.mark.parametrize(
    "begin",
    [b"", b"POST /v1/pre", b"POST / HTTP/1.1\r\nHost: x\r\n"],
    ids=["nothing", "line", "headers"],
)
def test_slow_head_closes_the_connection(colour_store: ModelStore, begin: bytes) -> None:
    """A client that sends no complete head in time is disconnected."""
    arguments = (
        "--store",
        colour_store.root,
        "--no-builtin",
        "--body-timeout-seconds",
        "1.5",
    )
    with running(*arguments) as server, server.announced().connect() as connection:
        connection.sendall(begin)
        assert connection.recv(100) == b"", "the server has closed the connection"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty_body"),
        (b"x" * 50_001, 413, "body_too_large"),
        (b"x", 415, "unsupported_media_type"),
    ],
    ids=["empty", "large", "none"],
)
def test_body_that_arrives_with_its_head_has_the_same_limits(
    limited_server: ServerProcess, body: bytes, status: int, code: str
) -> None:
    """The body is chunked, so that the head does not tell its length."""
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    with limited_server.connect() as connection:
        connection.sendall(
            request_head(Transfer_Encoding="chunked", Content_Type="text/plain")
            + chunk
            + b"0\r\n\r\n"
        )
        answer = read_response(connection)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("way", ["at once", "head first"])
def test_response_is_the_same_with_and_without_direct_transport(
    limited_server: ServerProcess, way: str
) -> None:
    """The same headers, once each, in the same order, and the connection is kept."""
    with limited_server.connect() as connection:
        for _ in range(2):
            head = request_head(Content_Length=len(RED))
            connection.sendall(head if way == "head first" else head + RED)
            if way == "head first":
                connection.sendall(RED)
            answer = read_response(connection)
            assert answer.status_code == 200
            assert [name.lower() for name in answer.headers] == HEADERS
            assert labels(answer.json()["results"]) == ["red"]


@pytest.mark.parametrize("connection_header", ["close", "keep-alive"])
def test_connection_header_is_honoured(
    limited_server: ServerProcess, connection_header: str
) -> None:
    """The response has the same `Connection: close`."""
    with limited_server.connect() as connection:
        connection.sendall(
            request_head(Content_Length=len(RED), Connection=connection_header) + RED
        )
        answer = read_response(connection)
        assert answer.headers.get("connection") == (
            "close" if connection_header == "close" else None
        )
        if connection_header == "close":
            assert connection.recv(100) == b""


@pytest.mark.anyio
@pytest.mark.parametrize("body", [RED, b"x"], ids=["answered", "refused"])
async def test_prediction_leaves_no_reference_cycles(colour_store: ModelStore, body: bytes) -> None:
    """Under load, the garbage collector would otherwise take a tenth of the time."""
    async with socket_application.listening(colour_store.root) as (_, port):
        reader, writer = await socket_application.connect(port)
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                writer.write(request_head(Content_Length=len(body)) + body)
                await socket_application.read_response(reader)
            await asyncio.sleep(0)
            assert sum(type(thing) is RequestResponseCycle for thing in gc.get_objects()) <= 1, (
                "the connection keeps the last one"
            )
        finally:
            gc.enable()
            writer.close()


def test_connect_is_rejected(server: ServerProcess) -> None:
    """The service is not a proxy; other clients are served."""
    with server.connect() as connection:
        connection.sendall(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 1000 + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")
    with server.connect() as connection:
        connection.sendall(request_head(Content_Length=len(RED)) + RED)
        assert read_response(connection).status_code == 200
    assert "RecursionError" not in server.stderr.text


def test_bytes_of_the_body_before_do_not_count_for_a_head(server: ServerProcess) -> None:
    """With pipelining, a long body and the start of the next head may arrive in one chunk."""
    with server.connect() as connection:
        head = request_head(Content_Length=len(RED))
        connection.sendall(request_head(Content_Length=70_000) + b"x" * 70_000 + head[:20])
        assert read_response(connection).json()["code"] == "not_an_image"
        connection.sendall(head[20:] + RED)
        assert labels(read_response(connection).json()["results"]) == ["red"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("length", "rest"), [(0, b"\r\n"), (9, b"x")], ids=["nothing", "a body that nobody reads"]
)
async def test_bytes_that_start_no_request_do_not_keep_a_connection_open(
    colour_store: ModelStore, length: int, rest: bytes
) -> None:
    """A connection without a next request is closed after the keep-alive time."""
    async with socket_application.listening(colour_store.root, keep_alive_seconds=1) as (_, port):
        reader, writer = await socket_application.connect(port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length)
        assert (await socket_application.read_response(reader))[0] == 200
        writer.write(rest)
        assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) == b""
        writer.close()
