"""Which names the Host header may have, on loopback and on public addresses."""

from typing import Any

import httpx
import pytest
from asgi_application import started
from colour_model import plain
from http_problems import check_problem
from pydantic import ValidationError
from server_process import ServerProcess, read_response

from model_store.store import ModelStore
from service.http.host_check import build_host_check
from service.public_address import is_loopback
from service.settings import Settings

RED = plain("red")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "[::1]:8000", "localhost.",
     "127.0.0.2:8000", "[0:0:0:0:0:0:0:1]"],
)  # fmt: skip
def test_names_of_this_machine_are_allowed(client: httpx.Client, host: str) -> None:
    assert client.get("/health/live", headers={"Host": host}).status_code == 200
    assert client.post("/v1/predict", content=RED, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
     "[::1].evil.example", "[::2]", "169.254.169.254", "[", "x" * 5000],
)  # fmt: skip
def test_name_of_a_rebound_page_is_misdirected(client: httpx.Client, host: str) -> None:
    """Every route answers 421; other protocols use their own error format."""
    headers = {"Host": host, "Origin": f"http://{host}"}
    for method, path in (("GET", "/"), ("GET", "/health/live"), ("POST", "/v1/predict")):
        response = client.request(method, path, headers=headers)
        check_problem(response, 421, "host_not_allowed")
        assert response.headers["connection"] == "close"
        assert len(response.text) < 1000
    response = client.post("/v2/models/colours/infer", headers=headers)
    assert (response.status_code, set(response.json())) == (421, {"error"})


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"", 200),  # HTTP/1.0: a browser always sends one
        (b"Host: localhost\r\nHost: evil.example\r\n", 421),
        (b"Host: \xff\r\n", 421),
        (b"Host:\r\n", 421),
    ],
)
def test_missing_and_repeated_names(server: ServerProcess, headers: bytes, status: int) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.0\r\n" + headers + b"\r\n")
        assert read_response(connection).status_code == status


@pytest.mark.parametrize(
    ("settings", "allowed", "refused"),
    [
        ({"host": "127.0.0.1"}, ["localhost"], ["models.example"]),
        ({"host": "localhost"}, ["127.0.0.1"], ["models.example"]),
        ({"host": "::1"}, ["[::1]"], ["models.example"]),
        ({"host": "0.0.0.0"}, ["models.example", "10.0.0.1"], []),
        ({"host": ""}, ["models.example"], []),
        ({"uds": "/run/x.sock"}, ["models.example"], []),
        ({"allowed_hosts": "*"}, ["models.example"], []),
        ({"allowed_hosts": "Models.Example, b.example"}, ["models.example", "localhost"], ["c"]),
        ({"host": "0.0.0.0", "allowed_hosts": "a.example"}, ["a.example"], ["10.0.0.1"]),
    ],
)  # fmt: skip
@pytest.mark.anyio
async def test_setting_and_address_decide(
    colour_store: ModelStore, settings: dict[str, Any], allowed: list[str], refused: list[str]
) -> None:
    async with started(colour_store.root, **settings) as application:
        for host in (*allowed, *refused):
            answer = await application.client.get("/health/live", headers={"Host": host})
            assert answer.status_code == (200 if host in allowed else 421)


def test_only_some_values_are_remembered() -> None:
    """A client cannot fill the memory with values that are allowed."""
    check = build_host_check(Settings())
    assert check
    for port in range(5000):
        check.check({"headers": [(b"host", b"localhost:%d" % port)]})
    assert len(check._allowed) <= 1000


@pytest.mark.parametrize("text", ["http://a", "a:80", "a b", "*.example", "-a", "a,,b"])
def test_invalid_host_names_are_rejected(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings(allowed_hosts=text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("", False),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example", False)],
)  # fmt: skip
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
