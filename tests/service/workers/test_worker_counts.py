"""Counts and states of the service are the same from every worker."""

import json
import os
import re
import signal
from collections.abc import Iterator

import httpx
import pytest
from colour_model import MODEL
from operating import eventually
from server_process import ServerProcess, read_response, request_head
from worker_processes import RED, connection_of_each, predict, two_workers, worker_pids

from model_store.store import ModelStore

OK = f'resident_requests_total{{model="{MODEL}",outcome="ok"}}'


@pytest.fixture(scope="module")
def service(colour_store: ModelStore) -> Iterator[ServerProcess]:
    with two_workers(colour_store) as server:
        yield server


def metric(server: ServerProcess, sample: str) -> float:
    """The value of a sample, read over a new connection."""
    text = httpx.get(f"{server.address}/metrics", trust_env=False).text
    match = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def test_every_worker_answers_with_the_sums_of_all(service: ServerProcess) -> None:
    """Requests on several connections, counted in metrics, live view and statistics."""
    statistics = f"/v2/models/{MODEL}/versions/1/stats"
    with connection_of_each(service) as connections:
        before = metric(service, OK)
        for connection in connections.values():
            assert [predict(connection) for _ in range(3)] == [200] * 3
        connections[2].sendall(request_head(Content_Length=1) + b"x")
        assert read_response(connections[2]).status_code == 400
    for _ in range(6):  # both workers are asked
        assert metric(service, OK) == before + 6
        with service.client() as client:
            counts = client.get(statistics).json()["model_stats"][0]
            assert counts["inference_stats"]["success"]["count"] == before + 6
            with client.stream("GET", "/page/live") as response:
                event = json.loads(next(response.iter_lines()).removeprefix("data: "))
            assert event["outcomes"]["ok"] == before + 6
            assert set(event["last_errors"]) == {"not_an_image"}
            assert sum(event["latency"]["counts"]) == before + 7


def test_gauges_are_not_multiplied(service: ServerProcess) -> None:
    """Two workers serve one version, and the histogram's buckets stay in order."""
    assert metric(service, "resident_workers") == 2
    assert metric(service, "resident_ready") == 1
    assert metric(service, f'resident_versions{{model="{MODEL}",state="ready"}}') == 1
    text = httpx.get(f"{service.address}/metrics", trust_env=False).text
    bounds = re.findall(
        rf'resident_stage_seconds_bucket{{le="(\S+?)",model="{MODEL}",stage="total"}}', text
    )
    assert bounds == sorted(bounds, key=float)
    assert len(bounds) == len(set(bounds))


def test_ids_of_requests_are_unique(service: ServerProcess) -> None:
    """Workers are forks of one process, but their random ids differ."""
    with connection_of_each(service) as connections:
        ids = []
        for connection in 20 * list(connections.values()):
            connection.sendall(request_head(Content_Length=len(RED)) + RED)
            ids.append(read_response(connection).headers["x-request-id"])
    assert len(set(ids)) == 40


def test_each_worker_logs_where_it_comes_from(service: ServerProcess) -> None:
    """The address is logged once, and what is served is printed once."""
    assert set(worker_pids(service)) == {1, 2}
    assert service.stderr.text.count("Uvicorn running on") == 1
    assert service.stdout.text.count("Resident ") == 1


def test_counts_of_a_worker_outlive_it(colour_store: ModelStore) -> None:
    """A counter never falls, even if the worker that counted was killed."""
    with two_workers(colour_store) as server:
        with connection_of_each(server) as connections:
            assert predict(connections[2]) == 200
        before = metric(server, OK)
        os.kill(worker_pids(server)[2], signal.SIGKILL)
        assert server.stderr.wait_for("worker ended worker=2 .* reason='SIGKILL'")
        assert metric(server, OK) == before
        eventually(lambda: httpx.get(f"{server.address}/health/ready").status_code, 200)
        assert metric(server, OK) == before
