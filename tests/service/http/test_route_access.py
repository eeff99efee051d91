"""Every route and the scope that it needs. A route that is missing here fails the test."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import pytest
from asgi_application import Application, started
from fastapi import APIRouter
from starlette.routing import BaseRoute, Mount, Route

from model_store.store import ModelStore
from service.key_changes import add_key
from service.key_file import SCOPES

pytestmark = pytest.mark.anyio
OPEN = None  # needs no key
SCOPE_OF_ROUTE: dict[str, str | None] = {
    # Predictions, which `PredictEndpoint` answers.
    "POST /v1/predict": "predict",
    "POST /v1/models/{model}/predict": "predict",
    "POST /v1/models/{model}/versions/{version}/predict": "predict",
    "POST /v1/embed": "predict",
    "POST /v1/models/{model}/embed": "predict",
    "POST /v1/models/{model}/versions/{version}/embed": "predict",
    "POST /v1/models/{model}:predict": "predict",
    "POST /v1/models/{model}/versions/{version}:predict": "predict",
    "POST /v1/models/{model}/labels/{label}:predict": "predict",
    "POST /v2/models/{model}/infer": "predict",
    "POST /v2/models/{model}/versions/{version}/infer": "predict",
    "POST /predictions/{model}": "predict",
    "PUT /predictions/{model}": "predict",
    "POST /predictions/{model}/{version}": "predict",
    "PUT /predictions/{model}/{version}": "predict",
    # Example images may come from the validation split.
    "GET /v1/models/{model}/versions/{version}/examples": "predict",
    "GET /v1/models/{model}/versions/{version}/examples/{index}": "predict",
    "GET /v1/models/{model}/versions/{version}/report": "predict",
    # What is served changes, or is listed with its failures.
    "POST /v1/models/{model}/versions/{version}/load": "manage",
    "POST /v1/models/{model}/versions/{version}/unload": "manage",
    "POST /v1/models/{model}/versions/{version}/promote": "manage",
    "DELETE /v1/models/{model}/versions/{version}/hold": "manage",
    "POST /v1/models/{model}/rollback": "manage",
    "PUT /v1/models/{model}/aliases/{alias}": "manage",
    "POST /v2/repository/index": "manage",
    "POST /v2/repository/models/{model}/load": "manage",
    "POST /v2/repository/models/{model}/unload": "manage",
    "PUT /models/{model}/{version}/set-default": "manage",
    # Counts of requests.
    "GET /metrics": "metrics",
    "GET /page/live": "metrics",
    "GET /v2/models/stats": "metrics",
    "GET /v2/models/{model}/stats": "metrics",
    "GET /v2/models/{model}/versions/{version}/stats": "metrics",
    # Models, health and documentation.
    "GET /v1/models": OPEN,
    "GET /v1/models/{model}": OPEN,
    "GET /v1/models/{model}/versions/{version}": OPEN,
    "GET /v2": OPEN,
    "GET /v2/models/{model}": OPEN,
    "GET /v2/models/{model}/versions/{version}": OPEN,
    "GET /v2/models/{model}/config": OPEN,
    "GET /v2/models/{model}/versions/{version}/config": OPEN,
    "GET /v2/models/{model}/ready": OPEN,
    "GET /v2/models/{model}/versions/{version}/ready": OPEN,
    "GET /v2/health/live": OPEN,
    "GET /v2/health/ready": OPEN,
    "GET /health/live": OPEN,
    "GET /health/ready": OPEN,
    "GET /ping": OPEN,
    "GET /models": OPEN,
    "GET /models/{model}": OPEN,
    "GET /models/{model}/{version}": OPEN,
    "GET /": OPEN,
    "GET /docs": OPEN,
    "GET /openapi.json": OPEN,
    "GET /static": OPEN,
    "GET /page": OPEN,
}
VALUES = {
    "model": "colours",
    "version": "1",
    "index": "0",
    "alias": "canary",
    "label": "production",
}


def flatten(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Newer versions of FastAPI keep included routers as one route each."""
    for route in routes:
        router: APIRouter | None = getattr(route, "original_router", None)
        yield from flatten(router.routes) if router else (route,)


def routes_of(application: Application) -> set[str]:
    """All routes of FastAPI, and those of the OpenAPI document, which has the predictions."""
    found = set()
    for route in flatten(application.app.api.routes):
        assert isinstance(route, (Mount, Route))
        methods = {"GET"} if isinstance(route, Mount) else set(route.methods or ()) - {"HEAD"}
        found |= {f"{method} {route.path}" for method in methods}
    for path, operations in application.app.api.openapi()["paths"].items():
        found |= {f"{method.upper()} {path}" for method in operations}
    return found


def url_of(path: str) -> str:
    url = path.format(**VALUES)
    return {"/static": "/static/favicon.svg", "/page": "/page/page.css"}.get(url, url)


async def test_table_has_every_route(colour_store: ModelStore) -> None:
    async with started(colour_store.root, torchserve_api=True) as application:
        undocumented = {
            route for route in SCOPE_OF_ROUTE if "/predictions/" in route or "/labels/" in route
        }
        key_in_form = {"POST /page/report/{model}/{version}"}  # test_training_report tests it
        assert (routes_of(application) - key_in_form) | undocumented == set(SCOPE_OF_ROUTE)
        for dialect in application.app._dialects:
            routes = [route.split() for route in SCOPE_OF_ROUTE if SCOPE_OF_ROUTE[route]]
            used = {method for method, path in routes if dialect.match(url_of(path)) is not None}
            assert used == set(dialect.methods), type(dialect).__name__


async def answer(client: httpx.AsyncClient, route: str, secret: str | None) -> int:
    method, path = route.split()
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    response = await client.request(method, url_of(path), headers=headers, content=b"{")
    return response.status_code


async def test_routes_need_their_scopes(colour_store: ModelStore, tmp_path: Path) -> None:
    """401 without a key, 403 with one of another scope, and otherwise neither."""
    keys = tmp_path / "keys.json"
    secrets = {scope: add_key(keys, scope, [scope]) for scope in SCOPES}
    async with started(colour_store.root, keys=keys, torchserve_api=True) as application:
        client = application.client
        for route, scope in SCOPE_OF_ROUTE.items():
            needed = scope is not OPEN
            assert (await answer(client, route, None) == 401) is needed, route
            assert (await answer(client, route, "resident_guess") == 401) is needed, route
            for other in SCOPES:
                if route == "GET /page/live" and other == scope:
                    continue  # a stream that does not end
                refused = needed and other != scope
                status = await answer(client, route, secrets[other])
                assert (status == 403) is refused, (route, other)
