"""Workers that end: they are replaced, unless none of them can start."""

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import httpx
import pytest
from operating import eventually
from server_process import REPOSITORY, ServerProcess, read_response, request_head, running
from worker_processes import (
    RED,
    TWO_WORKERS,
    connection_of_each,
    predict,
    two_workers,
    worker_pids,
)

from model_store.store import ModelStore
from service.workers.supervisor import MAX_START_CRASHES

pytestmark = pytest.mark.slow


def readiness(server: ServerProcess) -> tuple[int, dict[str, str]]:
    response = httpx.get(f"{server.address}/health/ready", trust_env=False)
    return response.status_code, response.json()


def test_killed_worker_is_replaced_while_the_other_answers(colour_store: ModelStore) -> None:
    """Every new connection is answered under load, before and after the replacement."""
    stopping = Event()
    with (
        two_workers(colour_store) as server,
        ThreadPoolExecutor(4) as pool,
        ExitStack() as at_the_end,
    ):
        at_the_end.callback(stopping.set)
        ended = Event()

        def connect_and_predict() -> list[int]:
            """The statuses of requests on new connections since the worker has ended."""
            statuses = []
            while not stopping.is_set():
                counts = ended.is_set()
                try:
                    with server.connect() as connection:
                        status = predict(connection)
                except (AssertionError, OSError):
                    status = 0
                if counts:
                    statuses.append(status)
            return statuses

        clients = [pool.submit(connect_and_predict) for _ in range(4)]
        before = worker_pids(server)
        os.kill(before[1], signal.SIGKILL)
        assert server.stderr.wait_for("worker ended worker=1 .* reason='SIGKILL'")
        ended.set()
        eventually(lambda: worker_pids(server)[1] != before[1], True)
        eventually(lambda: readiness(server)[0], 200)
        stopping.set()
        statuses = [status for client in clients for status in client.result()]
        with connection_of_each(server) as connections:
            assert set(connections) == {1, 2}
        assert statuses
        assert set(statuses) == {200}
        assert server.stdout.text.count("Resident ") == 1, "it is announced once"


def test_service_is_not_ready_without_one_of_its_workers(colour_store: ModelStore) -> None:
    """The reason names the worker. The test stops its process, so it is not replaced."""
    with two_workers(colour_store) as server:
        assert readiness(server) == (200, {"status": "ready"})
        os.kill(worker_pids(server)[2], signal.SIGKILL)
        assert server.stderr.wait_for("worker ended worker=2")
        eventually(lambda: readiness(server)[0], 200)


def test_five_crashes_in_a_row_end_the_service(colour_store: ModelStore, tmp_path: Path) -> None:
    """The command fails with a reason."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nos.register_at_fork(after_in_child=lambda: os._exit(7))\n"
    )
    paths = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    with running(
        "--store", colour_store.root, "--no-builtin", *TWO_WORKERS, environment=paths
    ) as server:
        assert server.wait() == 1
    ends = re.findall("worker ended .* reason='exit code 7'", server.stderr.text)
    assert len(ends) == MAX_START_CRASHES
    assert "exit code 7" in server.stderr.text.splitlines()[-1]
    assert "Traceback" not in server.stderr.text


def test_wrong_setting_ends_the_service_at_once(colour_store: ModelStore, tmp_path: Path) -> None:
    """As with one worker: a usage error, without restarts."""
    keys = tmp_path / "missing.json"
    with running(
        "--store", colour_store.root, "--no-builtin", *TWO_WORKERS, "--keys", keys
    ) as server:
        assert server.wait() == 2
    assert "--keys (SERVICE_KEYS)" in server.stderr.text
    assert len(re.findall("worker started", server.stderr.text)) <= 2
    assert "Traceback" not in server.stderr.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_request_is_lost_at_a_signal(colour_store: ModelStore, number: signal.Signals) -> None:
    """Every response arrives and is logged, and the exit status is that of one process."""
    with running("--store", colour_store.root, "--no-builtin") as alone:
        alone.announced()
        expected = alone.end(number)
    with two_workers(colour_store) as server, ThreadPoolExecutor(8) as pool:
        started = [Event() for _ in range(8)]

        def predict_until_closed(begun: Event) -> int:
            with server.connect() as connection:
                count = 0
                while True:
                    connection.sendall(request_head(Content_Length=len(RED)) + RED)
                    response = read_response(connection)
                    assert response.status_code == 200
                    count += 1
                    if count == 5:
                        begun.set()
                    if response.headers.get("connection") == "close":
                        return count

        clients = [pool.submit(predict_until_closed, begun) for begun in started]
        for begun in started:
            assert begun.wait(60)
        server.process.send_signal(number)
        counts = [client.result(60) for client in clients]
        assert min(counts) >= 5
        assert server.wait() == expected
        assert server.stderr.text.count('"POST /v1/predict" 200') == sum(counts)
        assert server.stderr.text.count("Finished server process") == 2, "the log is complete"
    assert "Traceback" not in server.stderr.text


def test_workers_stop_if_the_supervisor_is_killed(colour_store: ModelStore) -> None:
    """The port is free afterwards."""
    with two_workers(colour_store) as server:
        pids = worker_pids(server).values()
        server.process.kill()
        server.wait()
        for pid in pids:
            eventually(lambda pid=pid: Path(f"/proc/{pid}").exists(), False)
