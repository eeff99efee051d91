"""Which keys may manage versions, over real HTTP."""

import httpx
import pytest
from colour_model import MODEL, plain, publish
from http_problems import check_problem
from operating import BASE, operating, states
from server_process import read_response, request_head

from model_store.store import ModelStore
from service.key_changes import add_key, remove_key

RED = plain("red")
ROUTES = [
    ("POST", f"{BASE}/versions/1/load"),
    ("POST", f"{BASE}/versions/1/unload"),
    ("DELETE", f"{BASE}/versions/1/hold"),
    ("POST", f"{BASE}/versions/1/promote"),
    ("POST", f"{BASE}/rollback"),
    ("PUT", f"{BASE}/aliases/canary"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_management_is_disabled_without_a_manage_key(
    client: httpx.Client, method: str, path: str
) -> None:
    """Without a manage key every route is 403 and names the command that creates one."""
    for headers in ({}, {"Authorization": "Bearer resident_guess"}):
        response = client.request(method, path, headers=headers)
        check_problem(response, 403, "management_disabled")
        assert "python -m service keys add NAME --scope manage" in response.json()["detail"]


def test_every_route_checks_the_key_first(store: ModelStore) -> None:
    """Without the right key, model, version and body do not matter and nothing changes."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    with operating(store) as operator:
        predict = add_key(operator.keys, "app", ["predict"])
        paths = [
            *ROUTES,
            ("POST", "/v1/models/absent/versions/01/load"),
            ("PUT", "/v1/models/absent/aliases/1"),
        ]
        for method, path in paths:
            for header in (None, "Bearer resident_guess", f"Basic {operator.secret}"):
                headers = {"Authorization": header} if header else {}
                response = httpx.request(
                    method,
                    operator.server.address + path,
                    headers=headers,
                    content=b"{",
                    trust_env=False,
                )
                check_problem(response, 401, "unauthorized")
                assert response.headers["www-authenticate"].startswith("Bearer")
            response = operator.client.request(
                method, path, headers={"Authorization": f"Bearer {predict}"}, content=b"{"
            )
            check_problem(response, 403, "insufficient_scope")
        assert states(operator.client.get(BASE).json()) == {1: "ready", 2: "available"}
    assert len(store.aliases(MODEL).history("production")) == 1
    assert store.aliases(MODEL).names() == ["production"]


@pytest.mark.parametrize("path", [f"{BASE}/aliases/canary", "/v1/predict"])
def test_body_of_an_unauthorised_request_is_not_read(store: ModelStore, path: str) -> None:
    """The rejection arrives before the client has sent its body."""
    publish(store)
    with operating(store) as operator, operator.server.connect() as connection:
        add_key(operator.keys, "app", ["predict"])
        head = request_head(path, Content_Length=1_000_000, Expect="100-continue")
        connection.sendall(head.replace(b"POST", b"PUT" if "aliases" in path else b"POST"))
        assert read_response(connection).status_code == 401


def test_keys_apply_without_a_restart(store: ModelStore) -> None:
    """Added and removed keys apply immediately, for predicting too."""
    publish(store)
    with operating(store) as operator:
        operator.done("versions/1/load")
        assert operator.version() == 1
        secret = add_key(operator.keys, "app", ["predict"])
        check_problem(operator.client.post("/v1/predict", content=RED), 403, "insufficient_scope")
        check_problem(
            httpx.post(f"{operator.server.address}/v1/predict", content=RED, trust_env=False),
            401,
            "unauthorized",
        )
        for path in ("/v1/predict", f"{BASE}/predict", f"{BASE}/versions/1/predict"):
            response = operator.client.post(
                path, content=RED, headers={"Authorization": f"Bearer {secret}"}
            )
            assert response.status_code == 200
            check_problem(
                operator.client.post(path, content=RED, headers={"Authorization": "Bearer no"}),
                401,
                "unauthorized",
            )
        remove_key(operator.keys, "deploy")
        check_problem(operator.post("versions/1/load"), 403, "management_disabled")
        remove_key(operator.keys, "app")
        assert operator.version() == 1
