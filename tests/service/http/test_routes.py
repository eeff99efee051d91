"""Requests that reach a route in another way: HEAD, a slash at the end, a prefix, an origin."""

from collections.abc import Iterator

import httpx
import pytest
from asgi_application import started
from colour_model import MODEL, labels, plain
from http_problems import check_problem
from pydantic import ValidationError
from server_process import ServerProcess, running

from model_store.store import ModelStore
from service.http.asgi_replies import allow_head
from service.settings import Settings

RED = plain("red")
PAGE = "https://app.example.com"
GET_ROUTES = [
    "/",
    "/docs",
    "/openapi.json",
    "/static/swagger-ui.css",
    "/page/page.css",
    "/v1/models",
    f"/v1/models/{MODEL}",
    "/health/live",
    "/health/ready",
    "/metrics",
]
PREDICT_ROUTES = [
    "/v1/predict",
    f"/v1/models/{MODEL}/predict",
    f"/v1/models/{MODEL}/versions/1/predict",
]


@pytest.mark.parametrize("path", GET_ROUTES)
def test_head_is_answered_like_get_without_a_body(client: httpx.Client, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"]
    assert head.headers["content-length"].isdecimal()


def test_head_leaves_the_connection_in_step(server: ServerProcess) -> None:
    """The next response on the connection is that of the next request."""
    with server.connect() as connection:
        connection.sendall(
            b"HEAD /docs HTTP/1.1\r\nHost: localhost\r\n\r\n"
            b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        received = b""
        while b"route_not_found" not in received:
            received += connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 200")
    assert b"<html" not in received


@pytest.mark.parametrize("path", PREDICT_ROUTES)
def test_head_of_a_prediction_is_not_allowed(client: httpx.Client, path: str) -> None:
    response = client.head(path)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_allowed_methods_of_a_get_route_include_head(client: httpx.Client) -> None:
    response = client.post("/v1/models")
    check_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("methods", "allowed"),
    [(b"GET", b"GET, HEAD"), (b"DELETE, GET, PUT", b"DELETE, GET, HEAD, PUT"), (b"POST", b"POST")],
)
def test_head_is_allowed_wherever_get_is(methods: bytes, allowed: bytes) -> None:
    other = (b"x-other", b"GET")
    assert allow_head([(b"allow", methods), other]) == [(b"allow", allowed), other]


def test_slash_at_the_end_of_a_path_is_ignored(client: httpx.Client) -> None:
    """Without a redirect, which would lose the body of a POST. Two slashes are another path."""
    for path in GET_ROUTES[1:]:
        assert client.get(f"{path}/").status_code == 200
        if not path.startswith(("/static", "/page")):
            check_problem(client.get(f"{path}//"), 404, "route_not_found")
    for path in PREDICT_ROUTES:
        answer = client.post(f"{path}/", content=RED).json()
        assert labels(answer["results"]) == ["red"]
        check_problem(client.post(f"{path}//", content=RED), 404, "route_not_found")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("topk=1", "top_k"),
        ("topK=1", "top_k"),
        ("top-k=1", "top_k"),
        ("Top_K=1", "top_k"),
        ("timeout=1", "timeout_ms"),
        ("top_k=1&prio=2", "priority"),
        ("coverages=0.9", "coverage"),
    ],
)
def test_unknown_query_parameter_is_an_error_that_names_the_right_one(
    client: httpx.Client, query: str, named: str
) -> None:
    for path in PREDICT_ROUTES:
        response = client.post(f"{path}?{query}", content=RED)
        check_problem(response, 400, "invalid_parameter")
        assert f"did you mean `{named}`?" in response.json()["detail"]


def test_unlike_query_parameter_is_an_error_that_names_all(client: httpx.Client) -> None:
    """A long name is shortened, and costs no long comparison."""
    response = client.post("/v1/predict?" + "x" * 30_000 + "=1", content=RED)
    check_problem(response, 400, "invalid_parameter")
    assert len(response.text) < 1000
    for name in ("top_k", "coverage", "timeout_ms", "priority"):
        assert name in response.json()["detail"]


@pytest.fixture(scope="module")
def prefixed(colour_store: ModelStore) -> Iterator[httpx.Client]:
    arguments = ("--store", colour_store.root, "--no-builtin", "--root-path", "/ai/resident/")
    with running(*arguments) as server, server.announced().client() as client:
        yield client


@pytest.mark.parametrize("prefix", ["", "/ai/resident"])
def test_prefix_of_a_proxy_is_accepted_and_may_be_stripped(
    prefixed: httpx.Client, prefix: str
) -> None:
    """Proxies differ in whether they strip it."""
    for path in GET_ROUTES[1:]:
        assert prefixed.get(prefix + path).status_code == 200
    for path in PREDICT_ROUTES:
        answer = prefixed.post(prefix + path, content=RED).json()
        assert labels(answer["results"]) == ["red"]
    for root in (prefix, f"{prefix}/"):
        assert '<base href="/ai/resident/">' in prefixed.get(root).text
    check_problem(prefixed.get(f"{prefix}/nowhere"), 404, "route_not_found")


@pytest.mark.parametrize("path", ["/ai/resident2/v1/models", "/ai/v1/models", "/resident/docs"])
def test_path_under_another_prefix_is_not_found(prefixed: httpx.Client, path: str) -> None:
    check_problem(prefixed.get(path), 404, "route_not_found")


def test_document_names_the_prefix(prefixed: httpx.Client) -> None:
    """So that /docs and generated clients send requests to the proxy."""
    assert prefixed.get("/openapi.json").json()["servers"] == [{"url": "/ai/resident"}]


def test_document_without_a_prefix_names_no_server(client: httpx.Client) -> None:
    assert "servers" not in client.get("/openapi.json").json()


@pytest.mark.parametrize("text", ["resident", "//x", "/a b", "/a//b", "/ä", "https://x/y", '/"x'])
def test_prefix_that_is_no_path_is_rejected(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings(root_path=text)


@pytest.fixture(scope="module")
def shared(colour_store: ModelStore) -> Iterator[ServerProcess]:
    origins = f"{PAGE}, http://localhost:3000"
    with running("--store", colour_store.root, "--no-builtin", "--cors-origins", origins) as server:
        yield server.announced()


def preflight(client: httpx.Client, origin: str, path: str = "/v1/predict") -> httpx.Response:
    return client.options(
        path,
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        },
    )


def test_preflight_of_an_allowed_origin_is_answered(shared: ServerProcess) -> None:
    """Before a browser sends JSON or a key. It is logged like every request."""
    with shared.client() as client:
        response = preflight(client, PAGE)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "POST" in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"].replace(" ", "")
    assert {"authorization", "content-type"} <= set(allowed.split(","))
    assert response.headers["x-request-id"]
    assert shared.stderr.wait_for(r"OPTIONS /v1/predict.* 200")


def test_preflight_of_another_origin_is_rejected(shared: ServerProcess) -> None:
    with shared.client() as client:
        response = preflight(client, "https://evil.example.com")
    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [("/v1/predict", RED, 200), ("/v1/predict", b"x", 400), ("/v1/predict?x=1", RED, 400),
     ("/v1/models/nobody/predict", RED, 404), ("/nowhere", RED, 404), ("/v1/models", RED, 405)],
)  # fmt: skip
def test_responses_and_errors_may_be_read_by_an_allowed_origin(
    shared: ServerProcess, path: str, content: bytes, status: int
) -> None:
    """An error without the headers would be a network error to the page."""
    with shared.client() as client:
        for origin in (PAGE, "http://localhost:3000"):
            response = client.post(path, content=content, headers={"origin": origin})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == origin
            assert "origin" in response.headers["vary"].lower()
            exposed = response.headers["access-control-expose-headers"].lower()
            assert {"x-request-id", "retry-after"} <= {name.strip() for name in exposed.split(",")}
            assert response.headers["x-request-id"]
        other = client.post(path, content=content, headers={"origin": "https://evil.example.com"})
        assert (other.status_code, "access-control-allow-origin" in other.headers) == (
            status,
            False,
        )
        plain_response = client.post(path, content=content)
        assert "access-control-allow-origin" not in plain_response.headers


@pytest.mark.anyio
async def test_any_origin_may_be_allowed(colour_store: ModelStore) -> None:
    async with started(colour_store.root, cors_origins="*") as application:
        response = await application.client.post(
            "/v1/predict", content=RED, headers={"origin": "null"}
        )
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "*")


def test_no_origin_is_allowed_by_default(client: httpx.Client) -> None:
    response = client.post("/v1/predict", content=RED, headers={"origin": PAGE})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert preflight(client, PAGE).status_code == 405


@pytest.mark.parametrize(
    "text",
    ["app.example.com", f"{PAGE}/", f"{PAGE}/x", "https://App.example.com", "**", f"{PAGE},,"],
)
def test_origin_that_no_browser_sends_is_rejected(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings(cors_origins=text)
