"""Every response has the security headers once, also those that no route sends."""

import re
from collections import Counter

import httpx
import pytest
from colour_model import MODEL, plain
from server_process import ServerProcess, read_response

from service.http.security_headers import SECURITY_HEADERS

RED = plain("red")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/predict", 200),
        ("POST", "/v1/predict?x=1", 400),
        ("POST", "/v1/models/absent/predict", 404),
        ("GET", "/v1/models", 200),
        ("GET", f"/v1/models/{MODEL}/versions/1/examples/0", 200),
        ("GET", "/health/live", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/v1/models", 405),
        ("GET", "/", 200),
        ("GET", "/docs", 200),
        ("GET", "/page/page.css", 200),
        ("GET", "/static/swagger-ui.css", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/v2", 200),
        ("POST", "/v1/models/colours/rollback", 403),
    ],
)
def test_routes_and_errors(client: httpx.Client, method: str, path: str, status: int) -> None:
    response = client.request(method, path, content=RED if method == "POST" else None)
    assert response.status_code == status
    counts = Counter(name.lower() for name, _ in response.headers.multi_items())
    for name, value in SECURITY_HEADERS:
        assert response.headers[name] == value
        assert counts[name.lower()] == 1


def test_malformed_request(server: ServerProcess) -> None:
    with server.connect() as connection:
        connection.sendall(b"GARBAGE\r\n\r\n")
        response = read_response(connection)
    assert response.status_code == 400
    assert {(name, response.headers.get(name)) for name, _ in SECURITY_HEADERS} == set(
        SECURITY_HEADERS
    )


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_allow_no_foreign_scripts(client: httpx.Client, path: str) -> None:
    policy = client.get(path).headers["content-security-policy"]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"'self'( 'sha256-[\w+/=]+')*", rules["script-src"])
