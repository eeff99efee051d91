"""The head of a request is bounded in bytes and in time, on a real server."""

import socket

import pytest
from colour_model import labels, plain
from server_process import ServerProcess, read_response, request_head, running

from model_store.store import ModelStore

RED = plain("red")


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
    [(b"POST /v1/predict HTTP/1.1\r\n", b"x: y\r\n" * 4096), (b"GET /", b"a" * 65536), (b"GET / HTTP/1.1\r\nx: ", b"a" * 65536)],
    ids=["headers", "url", "one header"],
)
def test_a_head_without_end_is_refused(limited_server: ServerProcess, begin: bytes, chunk: bytes) -> None:
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


@pytest.mark.parametrize("begin", [b"", b"POST /v1/pre", b"POST / HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "line", "headers"])
def test_a_head_that_does_not_come_is_not_waited_for(colour_store: ModelStore, begin: bytes) -> None:
    """A client that connects and does not ask is let go of."""
    arguments = ("--store", colour_store.root, "--builtin", "false", "--body-timeout-seconds", "1.5")
    with running(*arguments) as server, server.announced().connect() as connection:
        connection.sendall(begin)
        assert connection.recv(100) == b"", "the server has closed the connection"
