"""The health check of the container, as Docker runs it."""

import os
import subprocess
import sys

import httpx
import pytest
from server_process import PATIENCE_SECONDS, REPOSITORY, ServerProcess, running

from model_store.store import ModelStore


def check(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.healthcheck"],
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
