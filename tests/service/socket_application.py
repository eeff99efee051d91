"""The application behind uvicorn on a real socket, in the test's process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import uvicorn
from asgi_application import Application, until
from colour_model import MODEL
from server_process import PATIENCE_SECONDS

from service.app import create_app
from service.server import connection_protocol
from service.settings import Settings
from service.versions.registry import Registry
from service.workers.link import WorkerPart


class InProcess(uvicorn.Server):
    """A server that leaves signals to the test."""

    def capture_signals(self) -> Any:
        return nullcontext()


@asynccontextmanager
async def listening(
    root: Path, *, keep_alive_seconds: int = 5, **settings: Any
) -> AsyncIterator[tuple[Application, int]]:
    """The application over a store and the port that it listens on."""
    loaded: asyncio.Future[Registry] = asyncio.get_running_loop().create_future()
    models = {"allowed_hosts": "*", "builtin": False, "default_model": MODEL, "instances": 1}
    chosen = Settings(store=root, **{**models, **settings})
    app = create_app(chosen, loaded.set_result)
    own = {"access_log": False, "log_level": "warning", "timeout_keep_alive": keep_alive_seconds}
    protocol = connection_protocol(app, chosen, WorkerPart())
    server = InProcess(uvicorn.Config(app, port=0, http=protocol, **own))  # type: ignore[arg-type]
    serving = asyncio.create_task(server.serve())
    try:
        registry = await asyncio.wait_for(loaded, PATIENCE_SECONDS)
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Application(app, registry, None), port  # type: ignore[arg-type]  # no client
    finally:
        server.should_exit = True
        await serving


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def read_response(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, head and body."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
    length = next(
        line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    return int(head.split()[1]), head, await reader.readexactly(int(length.split(b":")[1]))


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server ends the connection, also by a reset."""
    received = bytearray()
    try:
        while piece := await asyncio.wait_for(reader.read(65536), PATIENCE_SECONDS):
            received += piece
    except ConnectionError:
        pass
    return bytes(received)
