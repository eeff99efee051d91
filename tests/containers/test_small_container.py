"""Few processes and little memory: what does not fit is rejected, and the container stays up."""

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from compose_project import MakeProject, Project
from slow_model import slow_model_bytes

sys.path.append(str(Path(__file__).parents[1] / "service"))
from colour_model import SIZE, WEIGHTS, make_store, plain, publish

RED = plain("red")
WHITE = plain("white")
CLIENTS = 40
REQUESTS = 10
BUSY = {429, 503}


def small(make_project: MakeProject, folder: Path, **limits: str) -> tuple[Project, str]:
    """A container that serves `colours`, and `greedy`, which allocates without end for white."""
    store = make_store(folder / "store")
    publish(store)
    publish(store, "greedy", file=slow_model_bytes(SIZE, SIZE, WEIGHTS, greedy=True))
    project = make_project(
        STORE=str(store.root),
        SERVICE_BUILTIN="false",
        SERVICE_DEFAULT_MODEL="colours",
        **limits,
    )
    (container,) = project.up("service")
    return project, container


def statuses(project: Project, container: str, bodies: Sequence[bytes]) -> Counter[int]:
    """How often each status was the answer to clients that send at the same time."""

    def send(number: int) -> list[int]:
        with project.client(container) as client:
            path, body = "/v1/predict", bodies[number % len(bodies)]
            return [client.post(path, content=body).status_code for _ in range(REQUESTS)]

    with ThreadPoolExecutor(CLIENTS) as pool:
        return Counter(status for each in pool.map(send, range(CLIENTS)) for status in each)


def check_unharmed(project: Project, container: str) -> None:
    """It was neither killed nor restarted, and it answers."""
    state = "{{.State.OOMKilled}} {{.State.Running}} {{.RestartCount}}"
    assert project.state(container, state) == "false true 0"
    project.wait_until_ready(container)
    with project.client(container) as client:
        assert client.post("/v1/predict", content=RED).status_code == httpx.codes.OK


def test_a_burst_with_few_processes_and_little_memory(
    make_project: MakeProject, tmp_path: Path
) -> None:
    project, container = small(make_project, tmp_path, MEMORY="256m", PIDS="32")
    found = statuses(project, container, [RED, RED + bytes(200_000), RED + bytes(8_000_000)])
    assert found[200] > CLIENTS
    assert set(found) <= {200, *BUSY}
    check_unharmed(project, container)


def test_no_processes_left(make_project: MakeProject, tmp_path: Path) -> None:
    """`pids.max` is reached: decoders do not start, small images are answered."""
    project, container = small(make_project, tmp_path, PIDS="32")
    sleepers = "for i in $(seq 40); do sleep 60 & done; wait"
    project.run("docker", "exec", "--detach", container, "sh", "-c", sleepers, check=False)
    found = statuses(project, container, [RED, RED + bytes(200_000)])
    assert found[200] >= CLIENTS * REQUESTS // 2
    assert set(found) <= {200, *BUSY}
    check_unharmed(project, container)


def test_a_model_that_allocates_without_end(make_project: MakeProject, tmp_path: Path) -> None:
    """Its request fails with 500, and the container is not killed for its memory."""
    project, container = small(make_project, tmp_path, MEMORY="512m")
    with project.client(container) as client:
        for _ in range(3):
            answer = client.post("/v1/models/greedy/predict", content=WHITE)
            assert (answer.status_code, answer.json()["code"]) == (500, "inference_failed")
            assert client.post("/v1/predict", content=RED).status_code == httpx.codes.OK
    check_unharmed(project, container)
