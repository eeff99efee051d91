"""Hostile images against the real server: it answers others, and ends when it is told to."""

import base64
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from asgi_application import started
from colour_model import labels, plain
from hostile_images import ALLOCATES, CRASHES, LOOPS, hostile, hostile_environment
from image_bombs import BOMBS, MEBIBYTE
from server_process import ServerProcess, running

from model_store.store import ModelStore


@pytest.fixture
def server(colour_store: ModelStore, tmp_path: Path) -> Iterator[ServerProcess]:
    options = ("--store", colour_store.root, "--no-builtin", "--shutdown-seconds", 1)
    with running(*options, environment=hostile_environment(tmp_path)) as server:
        yield server.announced()


def decoder_processes(server: ServerProcess) -> list[int]:
    """The children of the server."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(number) for number in children.read_text().split()]


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return state not in "ZX"


def post_in_background(server: ServerProcess, image: bytes, path: str = "/v1/predict") -> "Answer":
    answer = Answer(server, image, path)
    answer.start()
    return answer


class Answer(threading.Thread):
    """A prediction request in a thread of its own."""

    def __init__(self, server: ServerProcess, image: bytes, path: str) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._image = image
        self._path = path
        self.response: httpx.Response | None = None

    def run(self) -> None:
        with self._server.client() as client:
            try:
                self.response = client.post(self._path, content=self._image)
            except httpx.TransportError:
                return


def test_liveness_is_answered_while_decoders_loop(server: ServerProcess) -> None:
    """Also small images are classified, until the deadline of the hostile ones passes."""
    path = "/v1/predict?timeout_ms=5000"
    answers = [post_in_background(server, hostile(LOOPS), path) for _ in range(3)]
    checks = 0
    with server.client() as client:
        while any(answer.is_alive() for answer in answers):
            assert client.get("/health/live").status_code == 200
            response = client.post("/v1/predict", content=plain("red"))
            assert labels(response.json()["results"]) == ["red"]
            checks += 1
    assert checks > 2
    for answer in answers:
        assert answer.response is not None
        assert answer.response.status_code == 504


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_service_ends_while_a_decoder_loops(server: ServerProcess, number: int) -> None:
    """Within its shutdown time, and no decoder outlives it."""
    post_in_background(server, hostile(LOOPS))
    processes = busy_decoders(server)
    assert server.end(number) in {0, -number}
    assert not any(is_running(process) for process in processes)


def test_decoders_die_with_a_killed_service(server: ServerProcess) -> None:
    """Also in the middle of an image."""
    post_in_background(server, hostile(LOOPS))
    processes = busy_decoders(server)
    server.end(signal.SIGKILL)
    for process in processes:
        wait_for_the_end(process)


def busy_decoders(server: ServerProcess) -> list[int]:
    """Wait until a decoder has used CPU time beyond its start."""
    while True:
        processes = decoder_processes(server)
        for process in processes:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            if int(fields[11]) > os.sysconf("SC_CLK_TCK"):
                return processes


def wait_for_the_end(process: int) -> None:
    while is_running(process):
        pass


def images(*encoded: bytes) -> list[dict[str, str]]:
    return [{"b64": base64.b64encode(image).decode()} for image in encoded]


@pytest.mark.anyio
@pytest.mark.parametrize("name", BOMBS)
async def test_bomb_gets_its_code_and_the_other_image_its_answer(
    colour_store: ModelStore, name: str
) -> None:
    """In one request."""
    body = {"images": images(BOMBS[name](3 * MEBIBYTE), plain("red"))}
    async with started(colour_store.root) as application:
        response = await application.client.post("/v1/predict", json=body)
    assert response.status_code == 200
    bomb, red = response.json()["results"]
    assert (bomb["error"]["status"], bomb["error"]["code"]) == (400, "image_too_expensive")
    assert labels([red]) == ["red"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("size", "code"),
    [(ALLOCATES, "image_too_expensive"), (CRASHES, "corrupt_image")],
    ids=["allocates", "crashes"],
)
@pytest.mark.usefixtures("hostile_codec")
async def test_fault_of_a_codec_is_an_error_of_its_image(
    colour_store: ModelStore, size: tuple[int, int], code: str
) -> None:
    """The image beside it is classified."""
    body = {"images": images(hostile(size), plain("red", size=(300, 300)))}
    async with started(colour_store.root, max_pixels=MEBIBYTE) as application:
        response = await application.client.post("/v1/predict", json=body)
    bad, red = response.json()["results"]
    assert (bad["error"]["status"], bad["error"]["code"]) == (400, code)
    assert labels([red]) == ["red"]
