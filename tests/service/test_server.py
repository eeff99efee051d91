"""The server that `serve` starts, in the test's process."""

import asyncio
import gc
import socket
from pathlib import Path

import pytest
import uvicorn
import uvloop
from asgi_application import until
from server_process import PATIENCE_SECONDS
from socket_application import InProcess
from starlette.types import Receive, Scope, Send

from service.__main__ import load_command
from service.http.protocol import BoundedHttpProtocol
from service.server import LISTENERS_PER_SOCKET, Server


class _Server(InProcess, Server):
    pass


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def _turns_until_accepted(count: int) -> int:
    """Turns of the event loop until the server has accepted `count` connected clients."""
    server = _Server(
        uvicorn.Config(
            _answer, port=0, http=BoundedHttpProtocol, lifespan="off", log_level="warning"
        )
    )
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    address = server.servers[0].sockets[0].getsockname()
    clients = [socket.create_connection(address) for _ in range(count)]
    turns = 0
    while len(server.server_state.connections) < count:
        turns += 1
        await asyncio.sleep(0)
    for client in clients:
        client.close()
    server.should_exit = True
    await serving
    return turns


def test_many_clients_are_accepted_per_turn() -> None:
    """A turn of the event loop accepts several clients."""
    assert (
        uvloop.run(
            asyncio.wait_for(_turns_until_accepted(4 * LISTENERS_PER_SOCKET), PATIENCE_SECONDS)
        )
        < 2 * LISTENERS_PER_SOCKET
    )


def test_garbage_is_collected_while_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While serving, garbage collection is on and the imports are frozen."""
    collector_states: list[tuple[bool, bool]] = []

    def run(_: Server, sockets: list[socket.socket]) -> None:
        collector_states.append((gc.isenabled(), gc.get_freeze_count() > 0))
        for listener in sockets:
            listener.close()

    monkeypatch.setattr(Server, "run", run)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    try:
        load_command("serve").main(["--store", str(tmp_path), "--port", "0"], standalone_mode=False)
    finally:
        gc.unfreeze()
        gc.enable()
    assert collector_states == [(True, True)]
