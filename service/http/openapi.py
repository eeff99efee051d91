"""The OpenAPI document, and `/docs` with the Swagger UI in `service/static`."""

import re
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from service.http.answer_headers import RESPONSE_HEADERS
from service.http.path_params import ModelName, VersionNumber
from service.http.predict_routes import (
    BINARY_MEDIA_TYPE,
    EMBEDDING_DIMS_HEADER,
    ERROR_RESPONSES,
    ROUTES,
    Operation,
    PredictRoute,
)
from service.http.problem_details import PROBLEM_MEDIA_TYPE
from service.http.query_params import EmbedParams, QueryParams
from service.http.request_body import BODY_SCHEMAS
from service.http.response_formats import CSV, JSON, LINES
from service.http.schemas import EmbedResponse, PredictResponse, Problem
from service.protocols.open_inference.openapi import INFER_SCHEMAS, describe_infer_routes
from service.protocols.tensorflow_serving_openapi import (
    INSTANCES_SCHEMAS,
    describe_instances_routes,
)

STATIC: Final = Path(__file__).parents[1] / "static"
_PATH_PARAMS: Final[dict[str, Any]] = {"model": ModelName, "version": VersionNumber}
_REFERENCE: Final = "#/components/schemas/{model}"
_PROBLEM: Final = {"$ref": _REFERENCE.format(model=Problem.__name__)}


def add_documentation(app: FastAPI) -> None:
    """Serve `/docs`, its static files, and the document with the prediction routes."""
    app.openapi = lambda: _build_document(app)  # type: ignore[method-assign]  # FastAPI's documented way
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root_path = request.scope["root_path"]
        return get_swagger_ui_html(
            openapi_url=f"{root_path}{app.openapi_url}",
            title=f"{app.title} {app.version}",
            swagger_js_url=f"{root_path}/static/swagger-ui-bundle.js",
            swagger_css_url=f"{root_path}/static/swagger-ui.css",
            swagger_favicon_url=f"{root_path}/static/favicon.svg",
            # The validator's badge would send the document to another host.
            swagger_ui_parameters={"validatorUrl": None},
        )


def _build_document(app: FastAPI) -> dict[str, Any]:
    """Add the prediction routes to FastAPI's document.

    FastAPI's 422 responses are removed, because an invalid parameter gets 400 here.
    """
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
                        content[PROBLEM_MEDIA_TYPE] = content.pop("application/json")
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        references, definitions = _describe_models()
        document["components"]["schemas"] = dict(sorted({**schemas, **definitions}.items()))
        operations = {route.path: {"post": _describe_route(route, references)} for route in ROUTES}
        operations |= describe_infer_routes(references, _describe_path)
        operations |= describe_instances_routes(references, _describe_path)
        document["paths"] = {**operations, **document["paths"]}
        # None is left out, as FastAPI does: optional fields would get the default null.
        app.openapi_schema = jsonable_encoder(document, exclude_none=True)
    return app.openapi_schema


def _describe_models() -> tuple[dict[Any, Any], dict[str, Any]]:
    modes: dict[type[BaseModel], JsonSchemaMode] = {
        PredictResponse: "serialization",
        EmbedResponse: "serialization",
        Problem: "serialization",
        **INFER_SCHEMAS,
        **INSTANCES_SCHEMAS,
    }
    modes |= {schema: "validation" for schema in BODY_SCHEMAS.values() if isinstance(schema, type)}
    by_model, definitions = models_json_schema(list(modes.items()), ref_template=_REFERENCE)
    references = {model: reference for (model, _), reference in by_model.items()}
    return references, definitions["$defs"]


def _describe_route(route: PredictRoute, references: dict[Any, Any]) -> dict[str, Any]:
    responses = {"200": _describe_success(route.operation, references)}
    responses |= {
        str(status): {
            "description": description,
            "content": {PROBLEM_MEDIA_TYPE: {"schema": references[Problem]}},
        }
        for status, description in ERROR_RESPONSES.items()
    }
    content = {
        media_type: {"schema": references[schema] if isinstance(schema, type) else schema}
        for media_type, schema in BODY_SCHEMAS.items()
    }
    return {
        "tags": ["prediction"],
        "summary": route.summary,
        "description": route.description,
        "operationId": re.sub(r"\W", "_", route.name + route.path) + "_post",
        "parameters": [*_describe_path(route.path), *_describe_query(route)],
        "requestBody": {"required": True, "content": content},
        "responses": responses,
        "security": [{}, {"HTTPBearer": []}],
    }


def _describe_success(operation: Operation, references: dict[Any, Any]) -> dict[str, Any]:
    headers = {
        name: {"description": description, "schema": {"type": "string"}}
        for name, description in RESPONSE_HEADERS.items()
    }
    if operation == "predict":
        return {
            "description": "The results, one per image, in the order of the request",
            "headers": headers,
            "content": {
                JSON: {"schema": references[PredictResponse]},
                CSV: {"schema": {"type": "string"}},
                LINES: {"schema": {"type": "string"}},
            },
        }
    dims = "Length of each embedding of a binary response"
    return {
        "description": "The embeddings in the order of the request: JSON or, if `Accept` names "
        f"`{BINARY_MEDIA_TYPE}`, little-endian float32 without anything between the images. One "
        "image that fails then fails the request",
        "headers": {
            **headers,
            EMBEDDING_DIMS_HEADER: {"description": dims, "schema": {"type": "integer"}},
        },
        "content": {
            JSON: {"schema": references[EmbedResponse]},
            BINARY_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}},
        },
    }


def _describe_path(path: str) -> list[dict[str, Any]]:
    return [
        _parameter(name, "path", TypeAdapter(_PATH_PARAMS[name]).json_schema(), required=True)
        for name in re.findall(r"{(\w+)}", path)
    ]


def _describe_query(route: PredictRoute) -> list[dict[str, Any]]:
    kind = QueryParams if route.operation == "predict" else EmbedParams
    properties = kind.model_json_schema()["properties"]
    if "{version}" in route.path:
        del properties["version"], properties["alias"]
    return [_parameter(name, "query", schema) for name, schema in properties.items()]


def _parameter(name: str, location: str, schema: dict[str, Any], **extra: Any) -> dict[str, Any]:
    description = schema.pop("description")
    schema.pop("title", None)
    return {"name": name, "in": location, "description": description, "schema": schema, **extra}
