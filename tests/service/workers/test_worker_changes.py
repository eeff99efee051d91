"""Changes of versions in one worker, by an operator or a publication, reach all workers."""

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from colour_model import MODEL, publish, publish_deviating
from operating import Operator, eventually, operating, publish_other, states
from server_process import read_response, request_head
from worker_processes import RED, TWO_WORKERS, connection_of_each, worker_pids

from model_store.store import ModelStore

NO_POLLING = ("--store-poll-seconds", 0)


@contextmanager
def operated(store: ModelStore, *arguments: object) -> Iterator[Operator]:
    """Two workers that do not look at the store by themselves."""
    with operating(store, *TWO_WORKERS, *arguments, *NO_POLLING) as operator:
        yield operator


def versions_of_each(operator: Operator) -> dict[int, int]:
    """The version that answers in each worker."""
    found = {}
    with connection_of_each(operator.server) as connections:
        for number, connection in connections.items():
            connection.sendall(request_head(Content_Length=len(RED)) + RED)
            found[number] = read_response(connection).json()["version"]
    return found


def states_in_each(operator: Operator) -> dict[int, dict[int, str]]:
    """The states of the versions in each worker."""
    found = {}
    with connection_of_each(operator.server) as connections:
        for number, connection in connections.items():
            head = request_head(f"/v1/models/{MODEL}").replace(b"POST", b"GET")
            connection.sendall(head)
            found[number] = states(read_response(connection).json())
    return found


def test_promotion_takes_effect_in_all_workers(store: ModelStore) -> None:
    """The change is complete when any worker has answered. The same is true of a rollback."""
    publish(store)
    with operated(store) as operator:
        publish_other(store)
        assert operator.post("versions/2/promote").status_code == 200
        assert versions_of_each(operator) == {1: 2, 2: 2}
        assert operator.post("versions/1/promote").status_code == 200
        assert versions_of_each(operator) == {1: 1, 2: 1}
        assert operator.post("rollback").status_code == 200
        assert versions_of_each(operator) == {1: 2, 2: 2}


def test_loading_and_unloading_take_effect_in_all_workers(store: ModelStore) -> None:
    """A worker that starts later does the same."""
    publish(store)
    with operated(store) as operator:
        publish_other(store)
        assert operator.post("versions/1/load").status_code == 200
        assert operator.post("versions/2/load").status_code == 200
        assert states_in_each(operator) == {n: {1: "ready", 2: "ready"} for n in (1, 2)}
        os.kill(worker_pids(operator.server)[2], signal.SIGKILL)
        assert operator.server.stderr.wait_for("worker ended worker=2")
        eventually(lambda: operator.client.get("/health/ready").status_code, 200)
        assert states_in_each(operator) == {n: {1: "ready", 2: "ready"} for n in (1, 2)}
        assert operator.post("versions/2/unload").status_code == 200
        for found in states_in_each(operator).values():
            assert found[2] in {"unloading", "available"}


def test_last_version_is_kept_by_all_workers(store: ModelStore) -> None:
    """Two workers are asked at the same time to unload one of two versions each."""
    publish(store)
    publish_other(store)
    with operated(store, "--version-policy", "all") as operator, ExitStack() as stack:
        clients = [stack.enter_context(operator.server.client()) for _ in range(2)]
        for client in clients:
            client.headers["Authorization"] = f"Bearer {operator.secret}"

        def unload(client: httpx.Client, number: int) -> int:
            path = f"/v1/models/{MODEL}/versions/{number}/unload"
            return client.post(path).status_code

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(unload, clients, (1, 2))) == [200, 409]
        serving = [
            [number for number, state in found.items() if state == "ready"]
            for found in states_in_each(operator).values()
        ]
        assert serving[0] == serving[1]
        assert len(serving[0]) == 1


@pytest.mark.slow
def test_stopped_worker_does_not_block_changes(store: ModelStore) -> None:
    """It takes part in the change once it runs again."""
    publish(store)
    with operated(store) as operator:
        publish_other(store)
        stopped = worker_pids(operator.server)[2]
        head = request_head(
            f"/v1/models/{MODEL}/versions/2/promote", Authorization=f"Bearer {operator.secret}"
        )
        with connection_of_each(operator.server) as connections:
            os.kill(stopped, signal.SIGSTOP)
            try:
                connections[1].sendall(head)
                assert read_response(connections[1]).status_code == 200
            finally:
                os.kill(stopped, signal.SIGCONT)
        assert operator.server.stderr.wait_for("worker not answering worker=2 question=adopt")
        eventually(lambda: versions_of_each(operator), {1: 2, 2: 2})


def test_failing_version_is_tried_once_and_is_one_error(store: ModelStore) -> None:
    """All workers know why it does not serve."""
    publish(store)
    with operating(store, *TWO_WORKERS) as operator:
        publish_deviating(store)
        eventually(lambda: states_in_each(operator), {n: {1: "ready", 2: "error"} for n in (1, 2)})
        log = operator.server.stderr.text
        assert len(re.findall(r"version trial started model=colours version=2", log)) == 1
        assert len(re.findall(r"version failed model=colours version=2", log)) == 1
        assert versions_of_each(operator) == {1: 1, 2: 1}


def test_new_version_is_tried_once(store: ModelStore) -> None:
    """At the start, and when it is published later."""
    publish(store)
    with operating(store, *TWO_WORKERS) as operator:
        publish_other(store)
        eventually(lambda: versions_of_each(operator), {1: 2, 2: 2})
        for number in (1, 2):
            trials = f"version trial started model=colours version={number}"
            assert operator.server.stderr.text.count(trials) == 1
