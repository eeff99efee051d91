"""The health check of the container, as the image runs it."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from server_process import PATIENCE_SECONDS, REPOSITORY, ServerProcess, running

from model_store.store import ModelStore

COMMAND = [sys.executable, "-I", "-S", str(REPOSITORY / "service/healthcheck.py")]


def check(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        COMMAND,
        cwd=REPOSITORY,
        env=dict(os.environ) | {"SERVICE_PORT": str(httpx.URL(address).port)} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    "proxy", [{}, {"http_proxy": "http://127.0.0.1:1", "no_proxy": ""}], ids=["direct", "proxy"]
)
def test_ready_service_is_healthy(server: ServerProcess, proxy: dict[str, str]) -> None:
    """A ready service is exit code 0, whether or not a proxy is configured."""
    result = check(server.address, **proxy)
    assert (result.returncode, result.stderr) == (0, "")


def test_service_without_models_is_unhealthy(store: ModelStore) -> None:
    """A service that is not ready, and a closed port, are exit code 1 with one line."""
    with running("--store", store.root, "--no-builtin") as server:
        address = server.listening().address
        unready = check(address)
    for result in (unready, check(address)):
        assert result.returncode == 1
        assert result.stderr.startswith("not ready: ")
        assert result.stderr.count("\n") == 1


def test_unix_socket_is_checked(tmp_path: Path, store: ModelStore) -> None:
    """With SERVICE_UDS, the check connects to the socket."""
    path = tmp_path / "resident.sock"
    with running("--store", store.root, "--uds", path) as server:
        assert server.stdout.wait_for(r"^Resident \S+ on Unix socket ")
        assert check("http://127.0.0.1:1", SERVICE_UDS=str(path)).returncode == 0
    assert check("http://127.0.0.1:1", SERVICE_UDS=str(path)).returncode == 1


def test_the_image_and_compose_run_this_command() -> None:
    """Both health checks name the file with the same options."""
    arguments = ["-I", "-S", "/app/service/healthcheck.py"]
    listed = ", ".join(f'"{argument}"' for argument in ["CMD", "python", *arguments])
    assert listed in (REPOSITORY / "docker-compose.yml").read_text()
    assert f"CMD [{listed.partition(', ')[2]}]" in (REPOSITORY / "Dockerfile").read_text()
