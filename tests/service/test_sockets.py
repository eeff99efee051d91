"""What the server listens on: IPv4, IPv6, both, or a Unix socket."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from colour_model import labels, plain
from server_process import PATIENCE_SECONDS, REPOSITORY, running

from model_store.store import ModelStore
from service.sockets import ListenError, accept_waiting, ignore_new_clients, listen

RED = plain("red")
SYN_SENT = 2
"""State of a connection whose first packet was not answered (tcp_states.h)."""
IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()
needs_ipv6 = pytest.mark.skipif(not IPV6, reason="needs IPv6")


@pytest.fixture
def path() -> Iterator[Path]:
    """A path for a socket; it is short, because the system allows 107 bytes."""
    name = Path("/tmp") / f"resident-{os.getpid()}-{os.urandom(4).hex()}.sock"
    yield name
    name.unlink(missing_ok=True)


def healthcheck(**environment: str) -> int:
    command = [sys.executable, "-m", "service.healthcheck"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SERVICE_")}
    return subprocess.run(
        command, cwd=REPOSITORY, env=clean | environment, timeout=PATIENCE_SECONDS, check=False
    ).returncode


@needs_ipv6
@pytest.mark.parametrize(
    ("host", "reachable"),
    [
        ("::", ["127.0.0.1", "[::1]"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["[::1]"]),
    ],
)
def test_host_chooses_the_families_and_the_health_check_follows(
    colour_store: ModelStore, host: str, reachable: list[str]
) -> None:
    """`::` is both families, and its IPv4 clients have IPv4 addresses in the log."""
    with running("--store", colour_store.root, "--no-builtin", "--host", host) as server:
        port = httpx.URL(server.announced().address).port
        assert healthcheck(SERVICE_HOST=host, SERVICE_PORT=str(port)) == 0
        for address in ("127.0.0.1", "[::1]"):
            url = f"http://{address}:{port}/v1/predict"
            if address in reachable:
                answer = httpx.post(url, content=RED, trust_env=False)
                assert labels(answer.json()["results"]) == ["red"]
                logged = address.strip("[]")
                assert server.stderr.wait_for(rf' {logged} "POST /v1/predict" 200')
            else:
                with pytest.raises(httpx.ConnectError):
                    httpx.post(url, content=RED, trust_env=False)


def test_unix_socket_serves_and_is_removed(colour_store: ModelStore, path: Path) -> None:
    """The client's address is the one that the proxy forwards."""
    arguments = ("--store", colour_store.root, "--no-builtin", "--uds", path)
    with running(*arguments) as server:
        assert server.stdout.wait_for(r"try +curl --unix-socket \S+ ")
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            answer = client.post(
                "http://proxy/v1/predict",
                content=RED,
                headers={"X-Forwarded-For": "198.51.100.1, 192.0.2.7"},  # the client invented one
            )
            assert labels(answer.json()["results"]) == ["red"]
            assert client.get("http://proxy/docs").status_code == 200
        assert server.stderr.wait_for(r' 192\.0\.2\.7 "POST /v1/predict" 200')
        assert healthcheck(SERVICE_UDS=str(path)) == 0
        server.end(signal.SIGTERM)
        assert not path.exists()
    assert healthcheck(SERVICE_UDS=str(path)) == 1


def test_unix_socket_of_a_killed_server_is_replaced(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as killed:
        killed.bind(str(path))
    with closing(listen("", 0, path)[0]), closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(path))


def test_unix_socket_of_a_running_server_is_not_replaced(path: Path) -> None:
    with closing(listen("", 0, path)[0]), closing(socket.socket(socket.AF_UNIX)) as client:
        with pytest.raises(ListenError):
            listen("", 0, path)
        client.connect(str(path))


def test_file_that_is_no_socket_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, tmp_path / "nowhere" / "socket", tmp_path / ("x" * 200)):
        with pytest.raises(ListenError):
            listen("", 0, path)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "x" * 70, "fe80::zz"])
def test_address_of_another_machine_is_an_error(host: str) -> None:
    with pytest.raises(ListenError):
        listen(host, 0, None)


@needs_ipv6
def test_both_families_have_the_same_port() -> None:
    """Also if the system chooses it; no socket is left if one of them is taken."""
    listeners = listen("::", 0, None)
    assert [listener.family for listener in listeners] == [socket.AF_INET6, socket.AF_INET]
    port = listeners[0].getsockname()[1]
    assert listeners[1].getsockname()[1] == port
    listeners[0].close()
    with pytest.raises(ListenError):
        listen("::", port, None)
    listeners[1].close()
    for listener in listen("::", port, None):
        listener.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_new_clients_are_ignored_and_earlier_ones_accepted(host: str) -> None:
    """The data of earlier clients still arrives."""
    (listener,) = listen(host, 0, None)
    address = listener.getsockname()
    with (
        closing(listener),
        socket.create_connection(address[:2]) as early,
        socket.socket(listener.family) as late,
    ):
        ignore_new_clients(listener)
        late.setblocking(False)
        assert late.connect_ex(address) == errno.EINPROGRESS
        (accepted,) = accept_waiting(listener)
        with accepted:
            early.sendall(b"a request")
            accepted.settimeout(PATIENCE_SECONDS)
            assert accepted.recv(100) == b"a request"
        assert accept_waiting(listener) == []
        assert late.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == SYN_SENT
