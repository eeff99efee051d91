"""Starts a service of two workers, and finds the worker of a connection."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

from colour_model import plain
from operating import eventually
from server_process import ServerProcess, read_response, request_head, running

from model_store.store import ModelStore

RED = plain("red")
TWO_WORKERS = ("--workers", 2)
_ids = count()


@contextmanager
def two_workers(store: ModelStore, *arguments: object) -> Iterator[ServerProcess]:
    everything = ("--access-log-rate", 1_000_000)
    arguments = ("--store", store.root, "--no-builtin", *TWO_WORKERS, *everything, *arguments)
    with running(*arguments) as server:
        yield server.announced()


def worker_pids(server: ServerProcess) -> dict[int, int]:
    """The newest process of each worker, by number."""
    found = re.findall(r"worker started worker=(\d+) pid=(\d+)", server.stderr.text)
    return {int(number): int(pid) for number, pid in found}


def predict(connection: socket.socket, **headers: object) -> int:
    """The status of one prediction on an open connection."""
    connection.sendall(request_head(Content_Length=len(RED), **headers) + RED)
    return read_response(connection).status_code


def worker_of(server: ServerProcess, connection: socket.socket, **headers: object) -> int:
    """The worker that has this connection, by the log line of a request."""
    request_id = f"who-{next(_ids)}"
    assert predict(connection, X_Request_Id=request_id, **headers) == 200
    line = server.stderr.wait_for(rf"id={request_id} worker=(\d+)$")
    assert line
    return int(line[1])


@contextmanager
def connection_of_each(
    server: ServerProcess, **headers: object
) -> Iterator[dict[int, socket.socket]]:
    """An open connection to each of two workers, by number."""
    with ExitStack() as stack:
        found: dict[int, socket.socket] = {}

        def connect() -> int:
            connection = stack.enter_context(server.connect())
            found.setdefault(worker_of(server, connection, **headers), connection)
            return len(found)

        eventually(connect, 2)
        yield found
