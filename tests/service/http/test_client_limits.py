"""Limits of one client address, with and without trusted proxies."""

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from asgi_application import started
from colour_model import plain
from http_problems import check_problem
from pydantic import ValidationError
from server_process import ServerProcess, read_response, request_head, running

from model_store.store import ModelStore
from service.errors import OverloadedError
from service.http.client_limits import MAX_CLIENTS, ClientRateLimits, ConnectionLimit, network_of
from service.http.forwarded import TrustedProxies, find_trusted_proxies
from service.settings import Settings

RED = plain("red")


@pytest.fixture(scope="module")
def server(colour_store: ModelStore) -> Iterator[ServerProcess]:
    """A server that trusts no proxy, and allows three connections per client."""
    limits = ("--max-connections-per-client", 3, "--trusted-proxies", "")
    with running("--store", colour_store.root, "--no-builtin", *limits) as server:
        yield server.announced()


def test_connections_of_a_client_are_limited(server: ServerProcess) -> None:
    """The fourth one gets 429 and is closed; once one of the others ends, a new one is served."""
    with ExitStack() as stack:
        held = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in held:
            connection.sendall(request_head(Content_Length=len(RED)) + RED)
            assert read_response(connection).status_code == 200
        for request in (b"", request_head(Content_Length=len(RED)) + RED):
            with server.connect() as refused:
                refused.sendall(request)
                response = read_response(refused)
                assert response.status_code == 429
                assert response.headers["connection"] == "close"
                assert refused.recv(1) == b""
        held[0].close()
        while True:  # until the server has noticed it
            with server.connect() as new:
                new.sendall(request_head(Content_Length=len(RED)) + RED)
                if read_response(new).status_code == 200:
                    break


@pytest.mark.anyio
async def test_requests_of_a_client_are_limited(colour_store: ModelStore) -> None:
    """Requests to all routes and protocols count. Other clients are served."""
    limit = {"client_requests_per_second": 0.01}
    async with started(colour_store.root, **limit) as application:
        client = application.client
        assert (await client.post("/v1/predict", content=RED)).status_code == 200
        for method, path in (("POST", "/v1/predict"), ("GET", "/v1/models"), ("GET", "/x")):
            response = await client.request(method, path)
            check_problem(response, 429, "rate_limited")
            assert 1 <= int(response.headers["retry-after"]) <= 100
            assert response.headers["x-request-id"]
        refused = await client.post("/v2/models/colours/infer")
        assert (refused.status_code, set(refused.json())) == (429, {"error"})
        other = httpx.ASGITransport(application.app, client=("192.0.2.9", 1))
        async with httpx.AsyncClient(transport=other, base_url="http://localhost") as client:
            assert (await client.get("/health/live")).status_code == 200


def test_client_behind_a_proxy_has_the_address_that_the_proxy_added(
    colour_store: ModelStore,
) -> None:
    """Addresses that the client itself puts into X-Forwarded-For have no effect."""
    limit = ("--client-requests-per-second", 0.01)
    with running("--store", colour_store.root, "--no-builtin", *limit) as server:
        client = server.announced().client()

        def ask(forwarded: str) -> int:
            return client.get("/health/live", headers={"X-Forwarded-For": forwarded}).status_code

        assert ask("192.0.2.1") == 200
        assert ask("192.0.2.1") == 429
        assert ask("198.51.100.7, 192.0.2.1") == 429
        assert ask("192.0.2.1, 198.51.100.7") == 200
        assert ask("192.0.2.55, 192.0.2.9, 127.0.0.1") == 200
        assert ask("192.0.2.9") == 429
        client.close()


def test_address_from_an_untrusted_client_is_ignored(server: ServerProcess) -> None:
    with server.client() as client:
        client.get("/nowhere-1", headers={"X-Forwarded-For": "192.0.2.1"})
    assert server.stderr.wait_for(r'127\.0\.0\.1 "GET /nowhere-1"')


@pytest.mark.parametrize(
    ("variable", "setting", "trusted", "untrusted"),
    [
        (None, None, ["127.0.0.1", "::1"], ["10.0.0.1", "", "unix"]),
        ("10.0.0.0/8, unix:, 192.0.2.1", None, ["10.1.2.3", "192.0.2.1"], ["127.0.0.1"]),
        ("10.0.0.0/8", "", [], ["127.0.0.1", "10.0.0.1"]),
        ("10.0.0.0/8", "2001:db8::/32", ["2001:db8::5"], ["10.0.0.1", "2001:db9::"]),
        (None, "*", ["198.51.100.1"], []),
    ],
)
def test_trusted_proxies(
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    setting: str | None,
    trusted: list[str],
    untrusted: list[str],
) -> None:
    """The setting wins over uvicorn's variable, of which other text is ignored."""
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    if variable is not None:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", variable)
    proxies = TrustedProxies(find_trusted_proxies(setting))
    assert [address in proxies for address in trusted] == [True] * len(trusted)
    assert [address in proxies for address in untrusted] == [False] * len(untrusted)


def test_number_of_clients_is_bounded() -> None:
    """Clients below their limit are forgotten first. A client above it stays refused."""
    limits = ClientRateLimits(0.001)
    limits.check("192.0.2.1")
    for number in range(MAX_CLIENTS // 4):
        limits.check(f"10.0.{number // 250}.{number % 250}")
    with pytest.raises(OverloadedError):
        limits.check("192.0.2.1")
    for number in range(3 * MAX_CLIENTS):
        limits.check(f"2001:db8:{number:x}::1")
    assert len(limits._limits) <= MAX_CLIENTS


def test_ipv6_clients_share_the_limit_of_their_network() -> None:
    assert (
        network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    )
    assert network_of("2001:db8:1:3::1") != network_of("2001:db8:1:2::1")
    assert [network_of(text) for text in ("192.0.2.1", "", "a:b")] == ["192.0.2.1", "", "a:b"]
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"


def test_trusted_proxies_may_open_any_number_of_connections() -> None:
    """Counts return to zero, so that nothing is remembered of clients that have left."""
    limit = ConnectionLimit(1, TrustedProxies(["10.0.0.0/8"]))
    assert [limit.open("10.0.0.1") for _ in range(3)] == [True] * 3
    assert [limit.open("192.0.2.1") for _ in range(2)] == [True, False]
    for address in ("10.0.0.1", "192.0.2.1"):
        limit.close(address)
    assert not limit._open
    assert limit.open("192.0.2.1")


@pytest.mark.parametrize(
    "settings",
    [{"trusted_proxies": "proxy.example"}, {"trusted_proxies": "10.0.0.1/8"},
     {"client_requests_per_second": 0}, {"max_connections_per_client": 0},
     {"keep_alive_seconds": 0}],
)  # fmt: skip
def test_wrong_settings(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**settings)  # type: ignore[arg-type]


def test_empty_variables_are_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """As docker-compose.yml passes them."""
    for name in ("SSL_CERTFILE", "CLIENT_REQUESTS_PER_SECOND", "MAX_CONNECTIONS_PER_CLIENT"):
        monkeypatch.setenv(f"SERVICE_{name}", "")
    settings = Settings()
    assert settings.ssl_certfile is None
    assert settings.client_requests_per_second is None
    assert settings.max_connections_per_client is None


def test_idle_connection_is_closed_after_its_time(colour_store: ModelStore) -> None:
    with (
        running("--store", colour_store.root, "--no-builtin", "--keep-alive-seconds", 1) as server,
        server.announced().connect() as connection,
    ):
        connection.sendall(request_head(Content_Length=len(RED)) + RED)
        assert read_response(connection).status_code == 200
        assert connection.recv(1) == b""
