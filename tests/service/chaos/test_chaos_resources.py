"""A full disk, a store that goes away, a clock set back, and no descriptors or memory left."""

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx
import pytest
from asgi_application import started
from colour_model import MODEL, labels, make_store, plain, publish
from operating import OTHER_WEIGHTS, eventually, publish_other
from server_process import ENVIRONMENT, PATIENCE_SECONDS, REPOSITORY, ServerProcess, running

from model_store.errors import AliasError, PublishError
from model_store.store import ModelStore
from service.key_changes import add_key

RED: Final = plain("red")
DISK_BYTES: Final = 2_000_000
FREE_BYTES: Final = 20_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs: run as root with CAP_SYS_ADMIN")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, keep: int = 0) -> Path:
    """Fill a file system but for `keep` bytes; returns the file to delete."""
    ballast = disk / "ballast"
    status = os.statvfs(disk)
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        file.write(bytes(max(0, status.f_bavail * status.f_frsize - keep)))
    return ballast


def predicts(server: ServerProcess) -> list[str]:
    answer = httpx.post(f"{server.address}/v1/predict", content=RED, trust_env=False)
    assert answer.status_code == 200, answer.text
    found: list[str] = labels(answer.json()["results"])
    return found


def test_publisher_on_a_full_disk_leaves_the_store_as_it_was(disk: Path) -> None:
    """Publishing fails for each number of free bytes, and works once there is space."""
    store = make_store(disk / "store")
    store.promote(MODEL, publish(store))
    for keep in (0, 1000, 4096, 8192, 12_288, 16_384):
        ballast = fill(disk, keep=keep)
        with contextlib.suppress(PublishError):
            publish(store, weights=OTHER_WEIGHTS, golden_weights=OTHER_WEIGHTS)
        with contextlib.suppress(AliasError):
            store.promote(MODEL, 1, why="while the disk is full")
        ballast.unlink()
        for number in store.versions(MODEL):
            store.open(MODEL, number).verify()
        assert store.aliases(MODEL).version("production") == 1
    number = publish_other(store)
    store.promote(MODEL, number)
    assert store.aliases(MODEL).version("production") == number


def test_service_with_a_full_disk_answers(colour_store: ModelStore, disk: Path) -> None:
    """It cannot write its cache, its log, the last use of keys or temporary files."""
    log, keys = disk / "service.log", disk / "keys.json"
    secret = add_key(keys, "app", ["predict"])
    fill(disk)
    environment = {**os.environ, **ENVIRONMENT, "TMPDIR": str(disk)}
    port = free_port()
    arguments = ("--store", colour_store.root, "--no-builtin", "--keys", keys, "--port", port)
    command = [sys.executable, "-m", "service", *map(str, arguments)]
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [*command, "--cache", str(disk / "cache"), "--default-model", MODEL],
            env=environment,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=file,
        ) as process,
    ):
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {secret}"},
            timeout=PATIENCE_SECONDS,
            trust_env=False,
        )
        eventually(lambda: status_of(client), 200)
        large = RED + bytes(200_000)
        for body in (RED, large) * 20:
            assert labels(client.post("/v1/predict", content=body).json()["results"]) == ["red"]
        client.close()
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status_of(client: httpx.Client) -> int:
    try:
        return client.get("/health/ready").status_code
    except httpx.TransportError:
        return 0


def test_store_that_goes_away_and_returns(tmp_path: Path) -> None:
    """The loaded version keeps serving. A promotion during the outage takes effect after it."""
    store = make_store(tmp_path / "store")
    store.promote(MODEL, publish(store))
    flags = ("--store", store.root, "--no-builtin", "--store-poll-seconds", 0.05)
    with running(*flags) as server:
        server.announced()
        away = tmp_path / "away"
        for _ in range(3):
            store.root.rename(away)
            assert server.stderr.wait_for("cannot be read|is missing|unreadable|no such")
            assert predicts(server) == ["red"]
            away.rename(store.root)
            assert predicts(server) == ["red"]
        store.promote(MODEL, publish_other(store))
        eventually(lambda: predicts(server), ["white"])
        assert "Traceback" not in server.stderr.text


@pytest.mark.anyio
async def test_clock_that_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten years back: requests, promotions and keys work, and the newest promotion wins."""
    store = make_store(tmp_path / "store")
    store.promote(MODEL, publish(store))
    secret = add_key(tmp_path / "keys.json", "app", ["predict"], expires_in=timedelta(days=1))
    headers = {"Authorization": f"Bearer {secret}"}
    async with started(store.root, keys=tmp_path / "keys.json") as application:
        first = await application.client.post("/v1/predict", content=RED, headers=headers)
        assert labels(first.json()["results"]) == ["red"]
        real, back = time.time, 10 * 365 * 86_400
        monkeypatch.setattr(time, "time", lambda: real() - back)
        number = publish_other(store)
        store.promote(MODEL, number)
        os.utime(store.root / MODEL / "aliases/production/00000002.json", (0, 0))
        await application.reconcile()
        second = await application.client.post("/v1/predict", content=RED, headers=headers)
        assert labels(second.json()["results"]) == ["white"]
        assert float(second.headers["server-timing"].rpartition("=")[2]) >= 0


def test_no_descriptors_left(colour_store: ModelStore) -> None:
    """Clients that use all descriptors block others. After they disconnect, others are served."""
    with running("--store", colour_store.root, "--no-builtin") as server:
        server.announced()
        pid = server.process.pid
        used = len(os.listdir(f"/proc/{pid}/fd"))
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 10, hard))
        held = [server.connect() for _ in range(60)]
        held[0].sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert held[0].recv(15) == b"HTTP/1.1 200 OK"
        for connection in held:
            connection.close()
        for _ in range(20):
            assert predicts(server) == ["red"]
        eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= used + 2, True)


def test_no_memory_left(colour_store: ModelStore) -> None:
    """Allocations fail in the service: such requests get an error, and later ones are answered."""
    with running("--store", colour_store.root, "--no-builtin") as server:
        client = server.announced().client()
        assert predicts(server) == ["red"]
        pid = server.process.pid
        size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        unlimited = resource.prlimit(pid, resource.RLIMIT_AS, (size + 8_000_000, -1))
        for _ in range(5):
            try:
                response = client.post("/v1/predict", content=RED + bytes(25_000_000))
            except httpx.TransportError:
                continue
            assert response.status_code in {200, 400, 429, 500, 503}
        assert predicts(server) == ["red"]
        resource.prlimit(pid, resource.RLIMIT_AS, unlimited)
        assert predicts(server) == ["red"]
        client.close()
        assert server.end() == 0


def test_storm_of_connections_without_requests(colour_store: ModelStore) -> None:
    """A thousand clients that connect and leave at once cost nothing that stays."""
    with running("--store", colour_store.root, "--no-builtin") as server:
        server.announced()

        async def storm() -> None:
            url = httpx.URL(server.address)
            for _ in range(20):
                pairs = await asyncio.gather(
                    *(asyncio.open_connection(url.host, url.port) for _ in range(50))
                )
                for _, writer in pairs:
                    writer.transport.abort()

        before = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        asyncio.run(storm())
        eventually(
            lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) <= before + 2, expected=True
        )
        assert predicts(server) == ["red"]
