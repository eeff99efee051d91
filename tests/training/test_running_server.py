"""After a publish, a running server is asked whether it serves the version."""

import socket
import threading
from pathlib import Path

import pytest
from server_process import running

from model_store.store import BUILTIN_ROOT, ModelStore
from training.running_server import RunningServer

MODEL = "digits-resnet20"


def digest() -> str:
    with ModelStore(BUILTIN_ROOT, builtin_root=None).open(MODEL, 1) as version:
        return f"sha256:{version.digest}"


def test_a_server_is_asked_which_version_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running("--store", tmp_path) as server:
        port = server.announced().address.rpartition(":")[2]
        monkeypatch.setenv("SERVICE_PORT", port)
        assert RunningServer().answers()
        assert RunningServer().serves(MODEL, digest())
        assert not RunningServer().serves(MODEL, "sha256:" + "0" * 64, wait=0)
        assert not RunningServer().serves("other", digest(), wait=0)


def test_no_server_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PORT", "1")
    assert not RunningServer().answers()
    assert not RunningServer().serves(MODEL, digest())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n<html>",
        b'HTTP/1.0 200 OK\r\n\r\n{"models": [1]}',
        b"HTTP/1.0 200 OK\r\n\r\n[]",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
def test_another_server_is_not_one_of_ours(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("SERVICE_PORT", str(listener.getsockname()[1]))

        def respond() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=respond)
        thread.start()
        assert not RunningServer().answers()
        thread.join()
