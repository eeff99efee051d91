"""`/docs`: the OpenAPI document in Swagger UI, whose script and style lie in `service/static`; no other host is asked."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parents[1] / "static"
_PROBLEM = {"$ref": "#/components/schemas/Problem"}


def add_documentation(app: FastAPI) -> None:
    """Serve `/docs` and what it needs."""
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]  # FastAPI's documented way to change the document
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=app.openapi_url or "/openapi.json",
            title=f"{app.title} {app.version}",
            swagger_js_url="/static/swagger-ui-bundle.js",
            swagger_css_url="/static/swagger-ui.css",
            swagger_favicon_url="/static/favicon.svg",
            swagger_ui_parameters={
                "validatorUrl": None
            },  # its badge would send the document to another host
        )


def _describe(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, as we really answer: no 422 (our invalid parameters are 400), and errors as problem+json."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                for response in operation["responses"].values():
                    content = response.get("content", {})
                    if content.get("application/json", {}).get("schema") == _PROBLEM:
                        content["application/problem+json"] = content.pop("application/json")
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema
