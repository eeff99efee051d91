"""Processes that are killed or stopped under load."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path
from typing import Final

import httpx
import pytest
from asgi_application import until
from colour_model import labels, plain
from operating import eventually
from server_process import PATIENCE_SECONDS, ServerProcess, request_head, running
from storm import IMAGES, Storm

from model_store.store import ModelStore
from model_store.temporary import PREFIX

RED: Final = plain("red")
REQUEST: Final = request_head(Content_Length=len(RED)) + RED
CONNECTIONS: Final = 8
BATCH: Final = 6
LATE_CLIENTS: Final = 40


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [
        int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()
    ]


def is_alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of temporary files of the server."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_killed_service_leaves_nothing_and_its_successor_serves(
    colour_store: ModelStore, temporary: Path
) -> None:
    """`kill -9` under load: no process is left, the port is free, and temporary files go."""
    flags = ("--store", colour_store.root, "--no-builtin", "--cache-max-bytes", 0)
    with running(*flags) as server:
        port = httpx.URL(server.announced().address).port

        async def kill_within_a_storm() -> list[int]:
            storm = Storm(server.address, 3)
            running_storm = asyncio.create_task(storm.run(300))
            await until(lambda: storm.answers["classified"] >= 30)
            helpers = children(server.process.pid)
            server.process.kill()
            with pytest.raises(ExceptionGroup) as caught:
                await running_storm
            _, others = caught.value.split((OSError, asyncio.IncompleteReadError))
            assert others is None
            return helpers

        helpers = asyncio.run(kill_within_a_storm())
        assert server.wait() == -signal.SIGKILL
        eventually(lambda: [pid for pid in helpers if is_alive(pid)], [])
    for purpose in ("files", "trial"):
        (temporary / f"{PREFIX}{purpose}-killed").mkdir()
    with running(*flags, "--port", port) as server:
        response = httpx.post(
            f"{server.announced().address}/v1/predict", content=RED, trust_env=False
        )
        assert labels(response.json()["results"]) == ["red"]
        assert not list(temporary.glob("resident-*"))


@pytest.mark.parametrize("drain_seconds", [0, 1])
def test_sigterm_under_load_loses_no_request(colour_store: ModelStore, drain_seconds: int) -> None:
    """Each client compares the number of requests on an open connection with its answers.

    Every request gets its answer until one has `Connection: close`. Of requests that were pipelined
    behind such an answer the client knows that they were not run (RFC 9112, section 9.6).
    """
    flags = ("--store", colour_store.root, "--no-builtin", "--drain-delay-seconds", drain_seconds)
    with running(*flags) as server:
        server.announced()
        counts = asyncio.run(_load_until_closed(server))
        assert server.wait() == 0
    assert len(counts) == CONNECTIONS
    assert all(answered >= BATCH for answered in counts)
    assert "Traceback" not in server.stderr.text
    assert "graceful shutdown exceeded" not in server.stderr.text


def test_clients_that_connect_until_the_end_are_answered(colour_store: ModelStore) -> None:
    """Their connections are complete, but not accepted yet, when the server stops to listen."""
    program = f"""if True:
        import socket, sys
        from service import server
        from service.__main__ import main

        clients, ignore_new_clients = [], server.ignore_new_clients

        def connect_and_ignore(listener):
            for _ in range({LATE_CLIENTS}):
                clients.append(socket.create_connection(listener.getsockname()))
                clients[-1].sendall({REQUEST!r})
            ignore_new_clients(listener)

        server.ignore_new_clients = connect_and_ignore
        try:
            main()
        finally:
            for client in clients:
                print("late client", client.recv(12), file=sys.stderr)
    """
    flags = ("--store", colour_store.root, "--no-builtin")
    with running(*flags, command=(sys.executable, "-c", program)) as server:
        assert server.announced().end(signal.SIGTERM) == 0
    answers = re.findall(r"late client (.*)", server.stderr.text)
    assert answers == ["b'HTTP/1.1 200'"] * LATE_CLIENTS


async def _load_until_closed(server: ServerProcess) -> list[int]:
    url = httpx.URL(server.address)
    served = asyncio.Barrier(CONNECTIONS + 1)

    async def client(batch: int) -> int:
        """Send `batch` requests at once, read their answers, and go on until the server closes."""
        reader, writer = await asyncio.open_connection(url.host, url.port)
        answered = 0
        while True:
            writer.write(REQUEST * batch)
            for _ in range(batch):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.split()[1] == b"200", head
                length = re.search(rb"content-length: (\d+)", head)
                assert length
                body = httpx.Response(200, content=await reader.readexactly(int(length[1])))
                assert labels(body.json()["results"]) == ["red"]
                answered += 1
                if b"connection: close" in head:
                    assert await reader.read() == b""
                    writer.close()
                    return answered
                if answered == BATCH:
                    await served.wait()

    sizes = [1 if number % 2 else BATCH for number in range(CONNECTIONS)]
    clients = [asyncio.create_task(client(size)) for size in sizes]
    await served.wait()
    server.process.send_signal(signal.SIGTERM)
    return await asyncio.wait_for(asyncio.gather(*clients), PATIENCE_SECONDS)


def test_killed_decoder_costs_only_its_image(colour_store: ModelStore) -> None:
    """Images that a decoder process decodes get an answer or an error, also while decoders die."""
    large = IMAGES["green"] + bytes(100_000)
    flags = ("--store", colour_store.root, "--no-builtin", "--no-access-log")
    with running(*flags) as server, server.announced().client() as client:
        for _ in range(20):
            for pid in children(server.process.pid):
                if b"decoder" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
            response = client.post("/v1/predict", content=large)
            assert response.status_code in {200, 400, 503}
            if response.status_code == 200:
                assert labels(response.json()["results"]) == ["green"]
        eventually(lambda: client.post("/v1/predict", content=large).status_code, 200)
