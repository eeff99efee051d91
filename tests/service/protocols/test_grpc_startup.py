"""gRPC is off by default, and what is wrong with its setting is said at the start."""

import socket
import subprocess
import sys

import pytest
from server_process import ENVIRONMENT, PATIENCE_SECONDS, REPOSITORY, running

from model_store.store import ModelStore


def start(*arguments: object, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run the service until it ends by itself. `code` runs before it."""
    program = f"{code}\nfrom service.__main__ import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_grpc_is_off_and_not_imported_by_default(colour_store: ModelStore) -> None:
    """Without the setting, the service needs no extra."""
    code = "import sys; from service import app; print([n for n in sys.modules if 'grpc' in n])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['service.protocols.grpc_extra']"
    with running("--store", colour_store.root, "--no-builtin") as server:
        server.announced()
        server.end()
        assert "gRPC" not in server.stderr.text


def test_missing_extra_is_named(colour_store: ModelStore) -> None:
    """With the command that installs it."""
    done = start(
        *("--store", colour_store.root, "--grpc-port", 0),
        code="import sys; sys.modules['grpc'] = None",
    )
    assert done.returncode == 2
    assert "pip install '.[grpc]'" in done.stderr
    assert "SERVICE_GRPC_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use_is_named(colour_store: ModelStore) -> None:
    """Also if it is the port of HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start("--store", colour_store.root, "--port", 0, "--grpc-port", port)
    assert done.returncode == 3
    assert f"port {port}" in done.stderr
    assert "SERVICE_GRPC_PORT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ["-1", "65536", "x"])
def test_port_must_be_a_port(value: str) -> None:
    """As the other settings, it is checked before anything starts."""
    assert start("--grpc-port", value).returncode == 2
