"""The routes: what is answered under which path, and the one place that turns errors into responses."""

import logging
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, FastAPI, Path
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from model_store.errors import ImageError, ModelStoreError
from service.errors import NotFoundError, ServiceError, problem, status_of
from service.images import FIELD
from service.prediction import DEFAULT_TOP_K, ClientDisconnectedError, Predictor
from service.registry import Registry, ServedModel
from service.schemas import (
    Health,
    ModelDetail,
    ModelList,
    ModelSummary,
    PredictResponse,
    Problem,
    VersionState,
)

CLIENT_CLOSED_REQUEST: Final = 499  # nobody reads it; logs do
logger = logging.getLogger(__name__)

ModelName = Annotated[str, Path(description="A model's name, as GET /v1/models lists it.")]
VersionNumber = Annotated[int, Path(description="A version that is served.", ge=1)]

_PREDICT: Final[dict[str, Any]] = {
    "response_model": PredictResponse,
    "response_model_exclude_none": True,
    "tags": ["prediction"],
    "responses": {
        status: {"model": Problem, "description": description}
        for status, description in {
            400: "No image, a damaged one, or a request that is not understood",
            404: "No such model or version is served",
            408: "The body came too slowly",
            413: "Too many bytes, images or pixels",
            415: "A media type or kind of image that is not taken",
            429: "Overloaded; Retry-After says when to come again",
            500: "The model failed on this batch",
            503: "The model has no version that serves yet",
            504: "The deadline passed",
        }.items()
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": "top_k",
                "in": "query",
                "description": "How many classes to return, best first; capped at the model's classes.",
                "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}},
                        "required": [FIELD],
                    }
                },
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            FIELD: {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "properties": {"b64": {"type": "string", "format": "byte"}},
                                    "required": ["b64"],
                                },
                            }
                        },
                        "required": [FIELD],
                    }
                },
            },
        },
    },
}


def build_router(registry: Registry, predictor: Predictor) -> APIRouter:
    """All routes over one registry and one predictor."""
    router = APIRouter()

    @router.post("/v1/predict", summary="Classify with the default model", **_PREDICT)
    async def predict_default(request: Request) -> Response:
        """Send an image as the body, several as multipart fields named `images`, or base64 in JSON."""
        return await predictor.predict(request, None, None)

    @router.post("/v1/models/{model}/predict", summary="Classify with a model", **_PREDICT)
    async def predict(request: Request, model: ModelName) -> Response:
        """As /v1/predict, with the version that the model's `production` alias names."""
        return await predictor.predict(request, model, None)

    @router.post("/v1/models/{model}/versions/{version}/predict", summary="Classify with one version", **_PREDICT)
    async def predict_version(request: Request, model: ModelName, version: VersionNumber) -> Response:
        """As /v1/predict; answers only where this very version is served."""
        return await predictor.predict(request, model, version)

    @router.get("/v1/models", summary="List the models", tags=["models"])
    async def list_models() -> ModelList:
        """Every model of the store and the version of it that serves."""
        models = [ModelSummary(**_summary(registry, model)) for _, model in sorted(registry.models.items())]
        return ModelList(models=models)

    @router.get("/v1/models/{model}", summary="Show a model", tags=["models"], responses={404: {"model": Problem}})
    def show_model(model: ModelName) -> ModelDetail:
        """What serves, what its gates found, where it comes from, and why other versions do not serve."""
        served = registry.models.get(model)
        if served is None:
            raise NotFoundError(f"there is no model {model!r}; there are {', '.join(sorted(registry.models)) or 'none'}")
        return _detail(registry, served)

    @router.get("/health/live", summary="Is the process up?", tags=["health"])
    async def live() -> Health:
        """200 while the process answers at all."""
        return Health(status="live")

    @router.get("/health/ready", summary="May traffic be sent here?", tags=["health"], responses={503: {"model": Health}})
    async def ready() -> Response:
        """200 when every model that was in the store at the start has a proven version that serves; else 503."""
        health = _health(registry)
        return JSONResponse(health.model_dump(exclude_none=True), status_code=200 if registry.ready else 503)

    @router.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/docs")

    return router


def add_error_handlers(app: FastAPI) -> None:
    """Turn every error into RFC 9457 problem details; a client never sees a traceback or a path."""

    async def on_service_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)  # noqa: S101  registered for this class alone
        return _respond(problem(error.status, error.code, str(error), error.errors), error.headers)

    async def on_image_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ImageError)  # noqa: S101  as above
        return _respond(problem(status_of(error), error.code, str(error)))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  as above
        code = {404: "route_not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        detail = f"{request.method} {request.url.path}: {error.detail}; GET /docs lists the routes"
        return _respond(problem(error.status_code, code, detail), dict(error.headers or {}))

    async def on_invalid_parameter(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  as above
        first = error.errors()[0]
        detail = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        return _respond(problem(400, "invalid_parameter", detail))

    async def on_disconnect(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def on_bug(request: Request, _: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path)  # the server logs the traceback itself
        return _respond(problem(500, "internal_error", "an error on our side; the server's log has the reason"))

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(ImageError, on_image_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_parameter)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(ClientDisconnectedError, on_disconnect)
    app.add_exception_handler(Exception, on_bug)


def _respond(document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE),
        status_code=document["status"],
        headers=headers,
        media_type="application/problem+json",
    )


def _health(registry: Registry) -> Health:
    if registry.ready:
        return Health(status="ready")
    if registry.error:
        return Health(status="not ready", reason="the model store can not be read")
    if not registry.loaded:
        return Health(status="not ready", reason="the models are being loaded")
    missing = ", ".join(sorted(model.name for model in registry.models.values() if model.served is None))
    return Health(status="not ready", reason=f"no proven version of {missing}" if missing else "the store holds no model")


def _summary(registry: Registry, model: ServedModel) -> dict[str, Any]:
    version = model.served.version if model.served else None
    return {
        "model": model.name,
        "state": model.state,
        "version": version.number if version else None,
        "digest": f"sha256:{version.digest}" if version else None,
        "default": model.name == registry.default_model,
    }


def _detail(registry: Registry, model: ServedModel) -> ModelDetail:
    summary = _summary(registry, model)
    try:
        numbers = registry.store.versions(model.name)
        aliases = registry.store.aliases(model.name)
        pointing = {alias: aliases.version(alias) for alias in aliases.names()}
    except ModelStoreError:
        logger.exception("the store could not be read for GET /v1/models/%s", model.name)
        numbers, pointing = [], {}
    versions = [_version_state(number, model) for number in sorted({*numbers, *model.errors})]
    if model.served is None:
        return ModelDetail(**summary, versions=versions, aliases=pointing)
    manifest = model.served.version.manifest
    return ModelDetail(
        **summary,
        layer=model.served.version.layer,
        versions=versions,
        aliases=pointing,
        proof=manifest.proof,
        class_names=list(manifest.class_names),
        input=manifest.input,
        preprocessing=manifest.preprocessing,
        max_batch_size=model.served.max_batch_size,
        metrics=manifest.metrics,
        gate=list(manifest.gate),
        training=manifest.training,
    )


def _version_state(number: int, model: ServedModel) -> VersionState:
    if model.served and model.served.version.number == number:
        return VersionState(version=number, state="ready")
    if reason := model.errors.get(number):
        return VersionState(version=number, state="error", reason=reason)
    return VersionState(version=number, state="available")
