"""The head of a request is bounded in bytes and in time, on a real server."""

import asyncio
import gc
import socket

import pytest
import socket_application
from colour_model import labels, plain
from server_process import PATIENCE_SECONDS, ServerProcess, read_response, request_head, running
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from model_store.store import ModelStore

RED = plain("red")
HEADERS = ["date", "content-type", "content-length", "model-digest", "x-request-id"]


def send_until_refused(connection: socket.socket, chunk: bytes, times: int) -> bytes:
    """Send the chunk again and again; what the server said when it ended the connection."""
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
def test_a_head_without_end_is_refused(
    limited_server: ServerProcess, begin: bytes, chunk: bytes
) -> None:
    """64 MB of headers, of URL or of one header are cut off long before they have come, and the next client is served."""
    with limited_server.connect() as connection:
        connection.sendall(begin)
        answer = send_until_refused(connection, chunk, 1000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    with limited_server.connect() as connection:
        connection.sendall(request_head(Content_Length=len(RED)) + RED)
        assert labels(read_response(connection).json()["results"]) == ["red"]


def test_heads_follow_each_other_on_one_connection(limited_server: ServerProcess) -> None:
    """The bound is on one head, not on a connection: large heads one after the other are all answered."""
    with limited_server.connect() as connection:
        for _ in range(4):
            connection.sendall(request_head(Content_Length=len(RED), X_Filler="f" * 40_000) + RED)
            assert labels(read_response(connection).json()["results"]) == ["red"]


@pytest.mark.parametrize(
    "begin",
    [b"", b"POST /v1/pre", b"POST / HTTP/1.1\r\nHost: x\r\n"],
    ids=["nothing", "line", "headers"],
)
def test_a_head_that_does_not_come_is_not_waited_for(
    colour_store: ModelStore, begin: bytes
) -> None:
    """A client that connects and does not ask is let go of."""
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
def test_a_body_that_comes_with_its_head_has_the_same_limits(
    limited_server: ServerProcess, body: bytes, status: int, code: str
) -> None:
    """In chunks, so that nothing in the head tells how much it is."""
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
def test_an_answer_is_the_same_however_its_request_came(
    limited_server: ServerProcess, way: str
) -> None:
    """Past the messages of ASGI or by them: the same headers, once each, in the same order, and a connection that is kept."""
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


@pytest.mark.parametrize("asked", ["close", "keep-alive"])
def test_a_connection_ends_where_that_was_asked_for(
    limited_server: ServerProcess, asked: str
) -> None:
    """The answer says so too."""
    with limited_server.connect() as connection:
        connection.sendall(request_head(Content_Length=len(RED), Connection=asked) + RED)
        answer = read_response(connection)
        assert answer.headers.get("connection") == ("close" if asked == "close" else None)
        if asked == "close":
            assert connection.recv(100) == b""


@pytest.mark.anyio
@pytest.mark.parametrize("body", [RED, b"x"], ids=["answered", "refused"])
async def test_a_prediction_leaves_nothing_to_the_collector(
    colour_store: ModelStore, body: bytes
) -> None:
    """What a request made is gone with its answer: under load the search for cycles would take a tenth of the time."""
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


def test_a_wish_to_be_connected_through_is_refused(server: ServerProcess) -> None:
    """This is no proxy: an attempt to use it as one ends at once, whatever stands in its head, and others are served."""
    with server.connect() as connection:
        connection.sendall(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 1000 + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")
    with server.connect() as connection:
        connection.sendall(request_head(Content_Length=len(RED)) + RED)
        assert read_response(connection).status_code == 200
    assert "RecursionError" not in server.stderr.text


def test_a_head_is_not_charged_with_the_body_before_it(server: ServerProcess) -> None:
    """Where requests are sent one behind the other, a long body and the begin of the next head may come in one chunk."""
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
async def test_bytes_that_are_no_request_do_not_keep_a_connection(
    colour_store: ModelStore, length: int, rest: bytes
) -> None:
    """After an answer a connection ends where no request follows, whatever else is sent."""
    async with socket_application.listening(colour_store.root, keep_alive_seconds=1) as (_, port):
        reader, writer = await socket_application.connect(port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length)
        assert (await socket_application.read_response(reader))[0] == 200
        writer.write(rest)
        assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) == b""
        writer.close()
