"""The OpenAPI document, and `/docs` with the Swagger UI in `service/static`."""

import base64
import re
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from model_store.aliases import PRODUCTION
from model_store.store import BUILTIN_DEFAULT_MODEL
from service.http.error_responses import describe_errors
from service.http.openapi_operation import BINARY, DialectOperation, describe_parameter
from service.http.predict_routes import (
    BINARY_MEDIA_TYPE,
    EMBED_ERRORS,
    EMBEDDING_DIMS_HEADER,
    PREDICT_ERRORS,
    ROUTES,
    PredictRoute,
)
from service.http.query_params import EmbedParams, QueryParams
from service.http.request_body import BODY_SCHEMAS, FIELD
from service.http.response_formats import CSV, JSON, LINES
from service.http.schemas import EmbedResponse, PredictResponse, Problem
from service.protocols.open_inference.openapi import INFER_SCHEMAS, describe_infer_routes
from service.protocols.tensorflow_serving_openapi import (
    INSTANCES_SCHEMAS,
    describe_instances_routes,
)
from service.protocols.torchserve_openapi import TORCHSERVE_SCHEMAS, describe_prediction_routes
from service.settings import Settings
from service.versions.registry import Registry

STATIC: Final = Path(__file__).parents[1] / "static"
_REFERENCE: Final = "#/components/schemas/{model}"
_IMAGE_LISTS: Final = {"JsonBody": "images", "InstancesBody": "instances"}
"""Bodies with at most `max_images` images, and the fields that have them."""


def add_documentation(app: FastAPI, registry: Registry, settings: Settings) -> None:
    """Serve `/docs`, its static files, and the document with the prediction routes."""
    # FastAPI's documented way.
    app.openapi = lambda: _build_document(app, registry, settings)  # type: ignore[method-assign]
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root_path = request.scope["root_path"]
        page = get_swagger_ui_html(
            openapi_url=f"{root_path}{app.openapi_url}",
            title=f"{app.title} {app.version}",
            swagger_js_url=f"{root_path}/static/swagger-ui-bundle.js",
            swagger_css_url=f"{root_path}/static/swagger-ui.css",
            swagger_favicon_url=f"{root_path}/static/favicon.svg",
            # The validator's badge would send the document to another host.
            swagger_ui_parameters={"validatorUrl": None},
        )
        page.headers["Content-Security-Policy"] = _allow_own_scripts(bytes(page.body).decode())
        return page


def _allow_own_scripts(page: str) -> str:
    """The policy of a page of the Swagger UI: its files, and the script in the page itself."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src 'self' {allowed}; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _build_document(app: FastAPI, registry: Registry, settings: Settings) -> dict[str, Any]:
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
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        references, definitions = _describe_models()
        for name, images in _IMAGE_LISTS.items():
            definitions[name]["properties"][images]["maxItems"] = settings.max_images
        document["components"]["schemas"] = dict(sorted({**schemas, **definitions}.items()))
        body = _describe_body(references, settings.max_images)
        operations = [_describe_route(route, references, body) for route in ROUTES]
        operations += describe_infer_routes(references)
        operations += describe_instances_routes(references)
        if settings.torchserve_api:
            operations += describe_prediction_routes(body)
        paths: dict[str, Any] = {}
        for each in operations:
            paths.setdefault(each.path, {})[each.method] = each.describe()
        document["paths"] = {**paths, **document["paths"]}
        _share_examples(document)
        # None is left out, as FastAPI does: optional fields would get the default null.
        app.openapi_schema = jsonable_encoder(document, exclude_none=True)
    _add_path_examples(app.openapi_schema, registry)
    return app.openapi_schema


def _share_examples(document: dict[str, Any]) -> None:
    """Move the examples of errors to the components: many operations have the same."""
    shared = document["components"].setdefault("examples", {})
    for path in document["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                for content in response.get("content", {}).values():
                    for code, example in content.get("examples", {}).items():
                        name = f"{content['schema']['$ref'].rsplit('/', 1)[-1]}.{code}"
                        shared[name] = example
                        content["examples"][code] = {"$ref": f"#/components/examples/{name}"}


def _add_path_examples(document: dict[str, Any], registry: Registry) -> None:
    """Examples of parameters that work on this replica: a version that serves now."""
    examples: dict[str, Any] = {"model": BUILTIN_DEFAULT_MODEL, "version": 1, "alias": "canary"}
    names = [registry.default_model, *sorted(registry.models)]
    for name in names:
        served = registry.models.get(name or "")
        if served and served.default_version:
            examples |= {"model": served.name, "version": served.default_version.version.number}
            break
    examples["label"] = PRODUCTION
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                name = parameter["name"]
                if parameter["in"] == "path" and name in examples:
                    kind = str if parameter["schema"].get("type") == "string" else int
                    parameter["example"] = kind(examples[name])


def _describe_models() -> tuple[dict[Any, Any], dict[str, Any]]:
    modes: dict[type[BaseModel], JsonSchemaMode] = {
        PredictResponse: "serialization",
        EmbedResponse: "serialization",
        Problem: "serialization",
        **INFER_SCHEMAS,
        **INSTANCES_SCHEMAS,
        **TORCHSERVE_SCHEMAS,
    }
    modes |= {schema: "validation" for schema in BODY_SCHEMAS.values() if isinstance(schema, type)}
    by_model, definitions = models_json_schema(list(modes.items()), ref_template=_REFERENCE)
    references = {model: reference for (model, _), reference in by_model.items()}
    return references, definitions["$defs"]


def _describe_body(references: dict[Any, Any], max_images: int) -> dict[str, Any]:
    """The body of a prediction request by media type."""
    content = {
        media_type: {"schema": references[schema] if isinstance(schema, type) else deepcopy(schema)}
        for media_type, schema in BODY_SCHEMAS.items()
    }
    form = content["multipart/form-data"]
    form["schema"]["properties"][FIELD]["maxItems"] = max_images
    form["encoding"] = {FIELD: {"contentType": "image/*"}}
    return content


def _describe_route(
    route: PredictRoute, references: dict[Any, Any], body: dict[str, Any]
) -> DialectOperation:
    predict = route.operation == "predict"
    dims = "Length of each embedding of a binary response"
    return DialectOperation(
        path=route.path,
        name=route.name,
        tag="prediction",
        summary=route.summary,
        description=route.description,
        parameters=_describe_query(route),
        body=body,
        success="The results, one per image, in the order of the request"
        if predict
        else "The embeddings in the order of the request: JSON or, if `Accept` names "
        f"`{BINARY_MEDIA_TYPE}`, little-endian float32 without anything between the images. One "
        "image that fails then fails the request",
        headers={}
        if predict
        else {EMBEDDING_DIMS_HEADER: {"description": dims, "schema": {"type": "integer"}}},
        answer={
            JSON: {"schema": references[PredictResponse]},
            CSV: {"schema": {"type": "string"}},
            LINES: {"schema": {"type": "string"}},
        }
        if predict
        else {JSON: {"schema": references[EmbedResponse]}, BINARY_MEDIA_TYPE: BINARY},
        errors=describe_errors(*(PREDICT_ERRORS if predict else EMBED_ERRORS)),
    )


def _describe_query(route: PredictRoute) -> list[dict[str, Any]]:
    kind = QueryParams if route.operation == "predict" else EmbedParams
    properties = kind.model_json_schema()["properties"]
    if "{version}" in route.path:
        del properties["version"], properties["alias"]
    return [describe_parameter(name, "query", schema) for name, schema in properties.items()]
