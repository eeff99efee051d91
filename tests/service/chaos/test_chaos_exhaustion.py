"""No threads or memory left under load, and a model that allocates without end."""

import asyncio
import io
import os
import resource
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
from colour_model import MODEL, SIZE, WEIGHTS, labels, make_store, plain, publish
from operating import eventually
from server_process import PATIENCE_SECONDS, SERVE, ServerProcess, running
from slow_model import slow_model_bytes
from storm import Resources

from model_store.store import ModelStore
from service.host.memory_limit import memory_limit
from service.host.own_memory import MEMORY_SHARE

RED: Final = plain("red")
WHITE: Final = plain("white")
LARGE: Final = RED + bytes(200_000)
"""An image for a decoder process."""
MEBIBYTE: Final = 1024 * 1024
USER: Final = 54_321
AS_USER: Final = (
    *("setpriv", f"--reuid={USER}", "--clear-groups", "--bounding-set=-sys_resource,-sys_admin"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
)
"""Runs a command as a user with a limit of threads, which root does not have.

The user can read the files of the tests.
"""
BUSY: Final = {429, 503}


def zip_archive() -> bytes:
    """An archive of two images, which a thread of the service unpacks."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(2):
            archive.writestr(f"{number}.png", RED)
    return buffer.getvalue()


@contextmanager
def no_more_threads(server: ServerProcess) -> Iterator[None]:
    """Within the block, the server can start neither threads nor processes."""
    as_user = AS_USER if os.geteuid() == 0 else ()
    pid = str(server.process.pid)
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    for limit in (1, "unlimited" if soft == resource.RLIM_INFINITY else soft):
        command = [*as_user, "prlimit", "--pid", pid, f"--nproc={limit}:"]
        subprocess.run(command, check=True)
        if limit == 1:
            yield


def test_no_threads_left(tmp_path: Path) -> None:
    """Requests that need a new thread or process get 429 or 503; all others are answered."""
    if not shutil.which("prlimit") or not shutil.which("setpriv"):
        pytest.skip("needs the commands prlimit and setpriv of util-linux")
    if os.geteuid() == 0 and subprocess.run([*AS_USER, "true"], check=False).returncode:
        pytest.skip("this root may not change its user: it lacks CAP_SETUID or CAP_DAC_OVERRIDE")
    store = make_store(tmp_path / "store")
    store.promote(MODEL, publish(store))
    command = (*AS_USER, *SERVE) if os.geteuid() == 0 else SERVE
    flags = ("--store", store.root, "--no-builtin", "--cache", tmp_path / "cache")
    with running(*flags, "--store-poll-seconds", 0.05, command=command) as server:
        client = server.announced().client()
        with no_more_threads(server):
            for _ in range(2):
                assert classify(client, RED) == (200, ["red"])
                assert classify(client, LARGE)[0] in BUSY
                status, found = classify(client, zip_archive(), "application/zip")
                assert status in BUSY or found == ["red", "red"]
                for path in ("/metrics", "/health/ready", "/v1/models"):
                    assert client.get(path).status_code == 200, path
                assert client.get(f"/v1/models/{MODEL}").status_code in {200, *BUSY}
            publish(store)
            assert server.stderr.wait_for("version trial|no process can be started")
        for body in (RED, LARGE):
            eventually(lambda body=body: classify(client, body), (200, ["red"]))
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 200
        client.close()
        assert server.end() == 0
        assert "Traceback" not in server.stderr.text


def classify(
    client: httpx.Client, body: bytes, media_type: str = "image/png"
) -> tuple[int, list[object]]:
    """The status, and the top label of each image."""
    response = client.post("/v1/predict", content=body, headers={"content-type": media_type})
    return response.status_code, labels(response.json().get("results", []))


def test_no_memory_left_under_load(colour_store: ModelStore) -> None:
    """`ulimit -v`: eight clients with large bodies get answers, and the process stays alive."""
    with running("--store", colour_store.root, "--no-builtin", "--no-access-log") as server:
        with server.announced().client() as client:
            assert classify(client, RED) == (200, ["red"]), server.stderr.text
        pid = server.process.pid
        size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        unlimited = resource.prlimit(pid, resource.RLIMIT_AS, (size + 40 * MEBIBYTE, -1))

        def send(number: int) -> list[int]:
            statuses = []
            with server.client() as client:
                for _ in range(4):
                    body = RED + bytes(number % 2 * 12_000_000)
                    try:
                        status, found = classify(client, body)
                    except httpx.TransportError:  # no memory for the connection
                        continue
                    assert status != 200 or found == ["red"]
                    statuses.append(status)
            return statuses

        with ThreadPoolExecutor(8) as pool:
            statuses = {status for each in pool.map(send, range(8)) for status in each}
        assert 200 in statuses, server.stderr.text
        assert statuses <= {200, 400, 408, 429, 500, 503}
        assert server.process.poll() is None
        resource.prlimit(pid, resource.RLIMIT_AS, unlimited)
        with server.client() as client:
            eventually(lambda: classify(client, LARGE), (200, ["red"]))
            assert client.get("/health/ready").status_code == 200
        assert server.end() == 0


def test_model_that_allocates_without_end_fails_its_request(store: ModelStore) -> None:
    """Other requests are answered meanwhile, and the memory is returned."""
    if not shutil.which("prlimit"):
        pytest.skip("needs the command prlimit of util-linux")
    greedy = slow_model_bytes(SIZE, SIZE, WEIGHTS, greedy=True)
    publish(store)
    publish(store, "greedy", file=greedy)
    # As in a small container: it keeps the service from setting a higher limit.
    command = ("prlimit", f"--data={450 * MEBIBYTE}", *SERVE)
    flags = ("--store", store.root, "--no-builtin", "--no-access-log")
    with running(*flags, command=command) as server:
        client = server.announced().client()
        path = "/v1/models/greedy/predict"
        assert client.post(path, content=RED).status_code == 200
        before = Resources.of(server)

        async def load() -> None:
            async with httpx.AsyncClient(
                base_url=server.address, timeout=PATIENCE_SECONDS
            ) as others:
                greedy_run = asyncio.create_task(others.post(path, content=WHITE))
                while not greedy_run.done():
                    answer = await others.post("/v1/predict", content=RED)
                    assert labels(answer.json()["results"]) == ["red"]
                response = greedy_run.result()
                assert response.status_code == 500
                assert response.json()["code"] == "inference_failed"

        for _ in range(2):
            asyncio.run(load())
        assert Resources.of(server).memory_kib < before.memory_kib + 60_000
        assert client.post(path, content=RED).status_code == 200
        assert client.get("/health/ready").status_code == 200
        client.close()
        assert server.end() == 0


def test_the_service_may_not_allocate_all_memory(colour_store: ModelStore) -> None:
    total = memory_limit()
    assert total
    with running("--store", colour_store.root, "--no-builtin") as server:
        soft, hard = resource.prlimit(server.announced().process.pid, resource.RLIMIT_DATA)
    assert soft == int(MEMORY_SHARE * total)
    assert hard == resource.getrlimit(resource.RLIMIT_DATA)[1]
