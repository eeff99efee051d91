"""Workers behind a Unix socket, and behind a port of gRPC."""

import re
import socket
import stat
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_process import PATIENCE_SECONDS, ServerProcess, running
from worker_processes import TWO_WORKERS, predict, two_workers

from model_store.store import ModelStore


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


def test_grpc_port_is_shared_by_workers_and_by_nobody_else(colour_store: ModelStore) -> None:
    """Channels of their own, so that the kernel distributes them; a second service cannot join."""
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
