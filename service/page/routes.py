"""The routes of the page: `/` and the files under `/page`."""

import asyncio
import html
from pathlib import Path
from string import Template
from typing import Final
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from model_store import __version__
from service.http.api_keys import ApiKeys
from service.http.management import ManagementRequests
from service.http.path_params import ModelName, VersionNumber
from service.http.service_counts import ServiceCounts
from service.http.training_report import read_report
from service.page.live import add_live_route
from service.versions.registry import Registry

STATIC: Final = Path(__file__).parent / "static"
SHELL: Final = Path(__file__).parent / "shell.html"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",  # a new release must not run the scripts of the old one
}


class PageFiles(StaticFiles):
    """The static files of the page, with its security headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def add_page(
    app: FastAPI,
    registry: Registry,
    counts: ServiceCounts,
    keys: ApiKeys,
    management: ManagementRequests,
    *,
    enabled: bool,
) -> None:
    """Serve the page; if it is not enabled, `/` redirects to the documentation.

    The shell needs no API key, because it holds no data.
    """
    if not enabled:

        @app.get("/", include_in_schema=False)
        async def root(request: Request) -> Response:
            return RedirectResponse(f"{request.scope['root_path']}/docs")

        return
    shell = Template(SHELL.read_text(encoding="utf-8"))
    add_live_route(app, registry, counts, keys)
    _add_report_route(app, registry, keys, management)
    app.mount("/page", PageFiles(directory=STATIC), name="page")

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        base = html.escape(f"{request.scope['root_path']}/")
        return HTMLResponse(shell.substitute(base=base, version=__version__), headers=HEADERS)


def _add_report_route(
    app: FastAPI, registry: Registry, keys: ApiKeys, management: ManagementRequests
) -> None:
    """Serve training reports to browser tabs, whose requests cannot have a header with a key."""

    @app.post("/page/report/{model}/{version}", include_in_schema=False)
    async def report(request: Request, model: ModelName, version: VersionNumber) -> HTMLResponse:
        fields = parse_qs((await management.read(request)).decode("latin-1"))
        key = fields.get("key", [""])[0]
        keys.check(f"Bearer {key}" if key else None, "predict")
        return await asyncio.to_thread(read_report, registry, model, version)
