"""Images that the service fetches by their URL, from a real HTTPS server."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgi_application import Application, started
from colour_model import labels, plain
from http_problems import check_problem
from image_host import CERTIFICATE, ImageHost, image_host
from server_process import PATIENCE_SECONDS, running

from model_store.store import ModelStore
from service.errors import ImageUrlError, OverloadedError, ServiceError
from service.fetch_targets import FetchHost, parse_fetch_hosts
from service.prediction import image_fetcher
from service.prediction.image_fetcher import MAX_REDIRECTS, ImageFetcher

pytestmark = pytest.mark.anyio
RED, GREEN = plain("red"), plain("green", "JPEG")


@pytest.fixture
async def host(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ImageHost]:
    """The server of `images.test`. Its address counts as public, and its certificate as known."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    monkeypatch.setattr(image_fetcher, "is_public_address", lambda address: address != "::1")
    async with image_host() as host:
        resolve_to(monkeypatch, "127.0.0.1")
        host.add("/red.png", RED)
        host.add("/green.jpg", GREEN)
        yield host


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    async def resolve(_: FetchHost) -> list[str]:
        return list(addresses)

    monkeypatch.setattr(image_fetcher, "resolve", resolve)


def ignore(_: int) -> None:
    pass


async def fetch(
    host: ImageHost,
    *paths: str,
    max_bytes: int = 1_000_000,
    seconds: float = PATIENCE_SECONDS,
    reserve: Callable[[int], None] = ignore,
) -> list[Any]:
    """The images behind paths or whole URLs; the code of an error in its place."""
    hosts = parse_fetch_hosts(f"images.test:{host.port}, other.test:{host.port}, wrong.test")
    fetcher = ImageFetcher(hosts, max_bytes, seconds)
    urls = [path if "://" in path else f"https://images.test:{host.port}{path}" for path in paths]
    images = await fetcher.fetch_urls([ImageUrlError(url) for url in urls], reserve)
    return [image.code if isinstance(image, ServiceError) else image for image in images]


async def test_images_have_the_order_of_their_urls(host: ImageHost) -> None:
    paths = ["/red.png", "/missing.png", "/green.jpg"] * 10
    assert await fetch(host, *paths) == [RED, "fetch_failed", GREEN] * 10


async def test_request_names_the_host_and_nothing_else(host: ImageHost) -> None:
    """No cookies, no compression, and the query is kept."""
    host.add("/a?b=c%20d", RED, "200 OK", "Set-Cookie: a=b")
    assert await fetch(host, "/a?b=c%20d#e", "/a?b=c%20d") == [RED, RED]
    for head in host.requests:
        lines = head.decode().split("\r\n")
        assert lines[0] == "GET /a?b=c%20d HTTP/1.1"
        assert {line.split(":")[0].lower() for line in lines[1:] if line} <= {
            *("host", "user-agent", "accept", "accept-encoding", "connection"),
        }
        assert f"host: images.test:{host.port}" in [line.lower() for line in lines]


async def test_the_context_of_a_trace_is_sent_along(host: ImageHost) -> None:
    context = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    fetcher = ImageFetcher(parse_fetch_hosts(f"images.test:{host.port}"), 1000, PATIENCE_SECONDS)
    url = ImageUrlError(f"https://images.test:{host.port}/red.png")
    assert await fetcher.fetch_urls([url], ignore, context) == [RED]
    assert f"traceparent: {context['traceparent']}".encode() in host.requests[0]


async def test_images_already_sent_are_kept(host: ImageHost) -> None:
    fetcher = ImageFetcher(parse_fetch_hosts("images.test"), 1000, PATIENCE_SECONDS)
    error = OverloadedError("x")
    assert await fetcher.fetch_urls([RED, error], ignore) == [RED, error]
    assert host.requests == []


async def test_redirect_to_an_allowed_host_is_followed(host: ImageHost) -> None:
    host.redirect("/relative", "/red.png")
    host.redirect("/absolute", f"https://other.test:{host.port}/green.jpg")
    assert await fetch(host, "/relative", "/absolute") == [RED, GREEN]
    assert f"other.test:{host.port}".encode() in host.requests[-1]


@pytest.mark.parametrize(
    "location",
    [
        "http://images.test/red.png",
        "https://evil.test/red.png",
        "https://127.0.0.1/red.png",
        "https://images.test@evil.test/",
        "file:///etc/passwd",
        "https://[",
    ],
)
async def test_other_redirects_are_not_followed(host: ImageHost, location: str) -> None:
    host.redirect("/leaves", location)
    assert await fetch(host, "/leaves") == ["url_not_allowed"]


async def test_endless_redirects_end(host: ImageHost) -> None:
    host.redirect("/loop", "/loop")
    assert await fetch(host, "/loop") == ["fetch_failed"]
    assert len(host.requests) == 1 + MAX_REDIRECTS


@pytest.mark.parametrize("addresses", [("::1",), ("127.0.0.1", "::1"), ()])
async def test_host_with_a_private_address_is_not_connected_to(
    host: ImageHost, addresses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here `::1` is the private one. One among others is enough."""
    resolve_to(monkeypatch, *addresses)
    assert await fetch(host, "/red.png") == ["url_not_allowed"]
    assert host.requests == []


async def test_address_that_refuses_is_skipped(
    host: ImageHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    assert await fetch(host, "/red.png") == [RED]
    resolve_to(monkeypatch, "127.0.0.2")
    assert await fetch(host, "/red.png") == ["fetch_failed"]


async def test_unknown_host_is_an_error(host: ImageHost, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(_: FetchHost) -> list[str]:
        raise socket.gaierror

    monkeypatch.setattr(image_fetcher, "resolve", resolve)
    assert await fetch(host, "/red.png") == ["fetch_failed"]


async def test_certificate_must_be_that_of_the_host(
    host: ImageHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the name, although the address is connected to; and of a known authority."""
    fetcher = ImageFetcher(parse_fetch_hosts(f"wrong.test:{host.port}"), 1000, PATIENCE_SECONDS)
    (image,) = await fetcher.fetch_urls(
        [ImageUrlError(f"https://wrong.test:{host.port}/red.png")], ignore
    )
    assert isinstance(image, ServiceError)
    assert image.code == "fetch_failed"
    monkeypatch.delenv("SSL_CERT_FILE")
    assert await fetch(host, "/red.png") == ["fetch_failed"]
    assert host.requests == []


async def test_bytes_of_all_images_are_limited_and_reserved(host: ImageHost) -> None:
    host.add("/large", bytes(600_000))
    results = await fetch(host, "/large", "/large", "/large", max_bytes=1_300_000)
    assert "body_too_large" in results
    assert "body_too_large" not in await fetch(host, "/large", "/large", max_bytes=1_200_000)
    reserved: list[int] = []
    await fetch(host, "/large", "/red.png", reserve=reserved.append)
    assert sum(reserved) == 600_000 + len(RED)

    def refuse(_: int) -> None:
        raise OverloadedError("no memory")

    assert await fetch(host, "/red.png", reserve=refuse) == ["overloaded"]


@pytest.mark.parametrize(
    ("status", "headers", "body", "result"),
    [
        ("404 Not Found", [], b"x", "fetch_failed"),
        ("500 Oops", [], b"", "fetch_failed"),
        ("204 No Content", [], b"", "fetch_failed"),
        ("302 Found", [], b"", "fetch_failed"),
        ("200 OK", ["Content-Encoding: gzip"], b"x", "fetch_failed"),
        ("200 OK", ["Content-Encoding: identity"], RED, RED),
        ("200 OK", [], b"", "empty_image"),
    ],
)
async def test_other_answers_are_errors(
    host: ImageHost, status: str, headers: list[str], body: bytes, result: object
) -> None:
    host.add("/x", body, status, *headers)
    assert await fetch(host, "/x") == [result]


@pytest.mark.parametrize(
    "response", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"]
)
async def test_broken_answers_are_errors(host: ImageHost, response: bytes) -> None:
    host.responses["/x"] = response
    assert await fetch(host, "/x") == ["fetch_failed"]


async def test_silent_host_is_left(host: ImageHost) -> None:
    host.responses["/silent"] = None
    assert await fetch(host, "/silent", seconds=0.2) == ["fetch_failed"]


def body(*urls: str) -> dict[str, Any]:
    return {"json": {"images": [{"url": url} for url in urls]}}


async def ask(application: Application, host: ImageHost, *paths: str, query: str = "") -> Any:
    urls = [f"https://images.test:{host.port}{path}" for path in paths]
    return await application.client.post(f"/v1/predict{query}", **body(*urls))


async def test_predictions_of_urls(host: ImageHost, colour_store: ModelStore) -> None:
    allowed = f"images.test:{host.port}"
    async with started(colour_store.root, fetch_allow=allowed) as application:
        response = await ask(application, host, "/red.png", "/missing", "/green.jpg")
        results = response.json()["results"]
        assert labels([results[0], results[2]]) == ["red", "green"]
        assert (results[1]["error"]["code"], results[1]["error"]["status"]) == (
            "fetch_failed",
            502,
        )
        check_problem(await ask(application, host, "/missing"), 502, "fetch_failed")
        other = body(f"https://other.test:{host.port}/red.png")
        response = await application.client.post("/v1/predict", **other)
        check_problem(response, 400, "url_not_allowed")


async def test_deadline_holds_for_urls(host: ImageHost, colour_store: ModelStore) -> None:
    host.responses["/silent"] = None
    allowed = f"images.test:{host.port}"
    async with started(colour_store.root, fetch_allow=allowed) as application:
        response = await ask(application, host, "/silent", query="?timeout_ms=200")
        check_problem(response, 504, "deadline_exceeded")
        await asyncio.wait_for(host.ended.wait(), PATIENCE_SECONDS)


def test_local_addresses_are_not_fetched_in_a_real_server(colour_store: ModelStore) -> None:
    """`localhost` is allowed here, and has no public address."""
    arguments = ("--store", colour_store.root, "--no-builtin", "--fetch-allow", "localhost")
    with running(*arguments) as server, server.announced().client() as client:
        response = client.post("/v1/predict", **body("https://localhost/red.png"))
        check_problem(response, 400, "url_not_allowed")
        assert "127.0.0.1" not in response.text


def test_urls_are_an_error_by_default(client: Any) -> None:
    """Nothing is fetched."""
    response = client.post("/v1/predict", **body("https://images.example.com/red.png"))
    check_problem(response, 400, "url_not_allowed")
    for image in ({"url": 5}, {"url": "https://a.test/", "b64": ""}, {"url": None}):
        response = client.post("/v1/predict", json={"images": [image]})
        check_problem(response, 400, "malformed_json")
