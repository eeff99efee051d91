"""Workers behind a Unix socket, and behind a port of gRPC."""

import re
import socket
import stat
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_process import PATIENCE_SECONDS, ServerProcess, running
from worker_processes import TWO_WORKERS, predict, two_workers, worker_of

from model_store.store import ModelStore
from service.workers.connection_counts import ConnectionCounts

pytestmark = pytest.mark.slow


def test_unix_socket_is_shared_and_removed_at_the_end(
    colour_store: ModelStore, tmp_path: Path
) -> None:
    path = tmp_path / "resident.sock"
    arguments = ("--store", colour_store.root, "--no-builtin", "--uds", path, *TWO_WORKERS)
    with running(*arguments) as server:
        assert server.stdout.wait_for(r"^Resident \S+ on Unix socket")
        assert stat.S_ISSOCK(path.stat().st_mode)
        for _ in range(4):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                assert predict(connection) == 200
        server.end()
        assert not path.exists()
    assert "Traceback" not in server.stderr.text


def test_connections_are_distributed_evenly(colour_store: ModelStore) -> None:
    """A client keeps its connection, so no worker may get most of them."""
    with two_workers(colour_store) as server, ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(16)]
        workers = [worker_of(server, connection) for connection in connections]
        assert min(workers.count(number) for number in (1, 2)) >= 4


def test_worker_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only workers with a recent count are compared."""
    with closing(ConnectionCounts(3)) as counts:
        assert counts.fewest_of_others(1) is None
        counts.set(1, 5)
        counts.set(2, 1)
        counts.set(3, 3)
        assert [counts.fewest_of_others(number) for number in (1, 2, 3)] == [1, 3, 1]
        counts.clear(2)
        assert counts.fewest_of_others(1) == 3
        monkeypatch.setattr("service.workers.connection_counts.FRESH_SECONDS", 0.0)
        assert counts.fewest_of_others(1) is None


def test_grpc_port_is_shared_by_workers_and_by_nobody_else(colour_store: ModelStore) -> None:
    """The kernel distributes separate channels. A second service cannot use the port."""
    with two_workers(colour_store, "--grpc-port", 0) as server:
        ports = re.findall(r"gRPC server running on 127.0.0.1:(\d+)", server.stderr.text)
        assert len(ports) == 2
        assert len(set(ports)) == 1
        for number in range(8):
            options = (("grpc.use_local_subchannel_pool", 1), ("resident.test", number))
            with grpc.insecure_channel(f"127.0.0.1:{ports[0]}", options) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
        second = ServerProcess(
            *("--port", 0, "--store", colour_store.root, "--no-builtin", *TWO_WORKERS),
            *("--grpc-port", ports[0]),
        )
        assert second.wait() == 3
        assert "SERVICE_GRPC_PORT" in second.stderr.text
        assert httpx.get(f"{server.address}/health/ready", trust_env=False).status_code == 200
