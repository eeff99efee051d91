"""HTTPS and gRPC over TLS with a self-signed certificate, and its renewal."""

import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from certificates import write_certificate
from colour_model import labels, plain
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_process import PATIENCE_SECONDS, ServerProcess, read_response, request_head, running
from test_sockets import healthcheck

from model_store.store import ModelStore
from service.settings import Settings
from service.tls import CertificateError, TlsCertificate, find_tls_files

RED = plain("red")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(colour_store: ModelStore, files: tuple[Path, Path]) -> Iterator[ServerProcess]:
    tls = ("--ssl-certfile", files[0], "--ssl-keyfile", files[1], "--grpc-port", 0)
    with running("--store", colour_store.root, "--no-builtin", *tls) as server:
        yield server.announced()


def trusting(files: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(files[0]))


def connect(server: ServerProcess, context: ssl.SSLContext) -> ssl.SSLSocket:
    url = httpx.URL(server.address)
    plain_socket = socket.create_connection((url.host, url.port or 443), PATIENCE_SECONDS)
    return context.wrap_socket(plain_socket, server_hostname="localhost")


def test_predictions_over_https(server: ServerProcess, files: tuple[Path, Path]) -> None:
    """Sends small and large requests on one connection. Plain HTTP gets no answer."""
    assert server.address.startswith("https://127.0.0.1:")
    large = RED + bytes(3_000_000)
    with httpx.Client(verify=trusting(files), base_url=server.address, trust_env=False) as client:
        for body in (RED, large, RED):
            answer = client.post("/v1/predict", content=body)
            assert labels(answer.json()["results"]) == ["red"]
    with pytest.raises(httpx.HTTPError):
        httpx.get(server.address.replace("https", "http") + "/health/live", trust_env=False)
    assert healthcheck(SERVICE_PORT=str(client.base_url.port), SERVICE_SSL_CERTFILE="x") == 0


def test_only_tls_1_2_and_newer(server: ServerProcess, files: tuple[Path, Path]) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting(files)
        context.minimum_version = context.maximum_version = version
        with connect(server, context) as connection:
            assert connection.version() == version.name.replace("_", ".")
    old = trusting(files)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        connect(server, old)


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (request_head(Content_Length=10**12) + bytes(300_000), [413]),
        (b"GARBAGE\r\n\r\n", [400]),
        ((request_head(Content_Length=len(RED)) + RED) * 3, [200, 200, 200]),
    ],
    ids=["rejected while it sends", "malformed", "pipelined"],
)
def test_connection_ends_without_losing_a_response(
    server: ServerProcess, files: tuple[Path, Path], request_bytes: bytes, statuses: list[int]
) -> None:
    """Over TLS, the service cannot close only its own direction."""
    with connect(server, trusting(files)) as connection:
        connection.sendall(request_bytes)
        received = b""
        while len(re.findall(rb"HTTP/1\.1 \d+", received)) < len(statuses):
            received += connection.recv(65536)
    assert [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+)", received)] == statuses
    assert "Traceback" not in server.stderr.text


def test_client_that_leaves_is_forgotten(server: ServerProcess, files: tuple[Path, Path]) -> None:
    """A client that ends TLS within its body does not disturb the log or the next client."""
    with connect(server, trusting(files)) as connection:
        connection.sendall(request_head(Content_Length=1000) + b"x")
        connection.unwrap()
    with connect(server, trusting(files)) as connection:
        connection.sendall(request_head(Content_Length=len(RED)) + RED)
        assert read_response(connection).status_code == 200  # type: ignore[arg-type]
    assert "eof_received" not in server.stderr.text
    assert "Traceback" not in server.stderr.text


def test_grpc_uses_the_same_certificate(server: ServerProcess, files: tuple[Path, Path]) -> None:
    match = server.stderr.wait_for(r"gRPC server running on 127\.0\.0\.1:(\d+)")
    assert match
    credentials = grpc.ssl_channel_credentials(files[0].read_bytes())
    with grpc.secure_channel(f"localhost:{match[1]}", credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def served_certificate(context: ssl.SSLContext) -> bytes:
    """The certificate that a client gets from a server with this context."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    own.check_hostname, own.verify_mode = False, ssl.CERT_NONE
    ours = own.wrap_bio(incoming, outgoing)
    theirs = context.wrap_bio(outgoing, incoming, server_side=True)
    for side in (ours, theirs, ours):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    certificate = ours.getpeercert(binary_form=True)
    assert certificate
    return certificate


def test_renewed_certificate_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate whose key is not there yet is logged once, and the old pair stays in use."""
    files = write_certificate(tmp_path)
    certificate = TlsCertificate(*files)
    first = served_certificate(certificate.context)
    new = write_certificate(tmp_path, "new")
    new[0].replace(files[0])
    for _ in range(2):
        certificate.reload_if_changed()
    assert served_certificate(certificate.context) == first
    assert len(caplog.records) == 1
    new[1].replace(files[1])
    certificate.reload_if_changed()
    assert served_certificate(certificate.context) == ssl.PEM_cert_to_DER_cert(files[0].read_text())
    files[1].unlink()
    certificate.reload_if_changed()
    assert served_certificate(certificate.context) != first


def test_key_in_the_file_of_the_certificate(tmp_path: Path) -> None:
    """As some tools write it, with `ssl_keyfile` unset."""
    certificate, key = write_certificate(tmp_path)
    certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
    files = find_tls_files(Settings(ssl_certfile=certificate))
    assert files == (certificate, certificate)
    assert served_certificate(TlsCertificate(*files).context)


def test_unusable_files_are_exit_code_2(tmp_path: Path) -> None:
    """Also a key with a password, for which OpenSSL would ask on the terminal."""
    files = write_certificate(tmp_path)
    locked = write_certificate(tmp_path, "locked", password=b"secret")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # nobody writes to it, so reading it would never end
    absent = tmp_path / "absent"
    for certificate, key in (
        (files[0], absent),
        (files[1], files[0]),
        locked,
        (pipe, files[1]),
        (files[0], pipe),
        (files[0], tmp_path),
    ):
        with pytest.raises(CertificateError):
            TlsCertificate(certificate, key)
    for options in (["--ssl-certfile", files[1]], ["--ssl-keyfile", files[1]]):
        done = subprocess.run(
            [sys.executable, "-m", "service", *map(str, options)], capture_output=True, text=True,
            timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
