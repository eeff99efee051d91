"""The routes: what is answered under which path."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path
from prometheus_client.exposition import choose_encoder
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from model_store.errors import InvalidNameError
from model_store.names import parse_version
from service.errors import NotFoundError, NotReadyError
from service.http.metrics import ServiceMetrics
from service.http.query_params import DOCUMENTED
from service.http.request_body import FIELD
from service.http.schemas import Health, PredictResponse, Problem
from service.versions.registry import Registry
from service.versions.views import ModelDetail, ModelList, describe_model, summarise


def _canonical(text: str) -> int:
    try:
        return parse_version(text)
    except InvalidNameError as error:
        raise ValueError(str(error)) from None


ModelName = Annotated[str, Path(description="A model's name, as GET /v1/models lists it.")]
VersionNumber = Annotated[
    int, BeforeValidator(_canonical), Path(description="A version that is served.", ge=1)
]

_PREDICT: Final[dict[str, Any]] = {
    "response_model": PredictResponse,
    "response_model_exclude_none": True,
    "tags": ["prediction"],
    "responses": {
        status: {"model": Problem, "description": description}
        for status, description in {
            400: "No image, a damaged one, or a request that is not understood",
            401: "Where a key is needed: none, or one that is not known",
            403: "Where a key is needed: one without the scope `predict`",
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
        "security": [{}, {"HTTPBearer": []}],
        "parameters": DOCUMENTED,
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            FIELD: {
                                "type": "array",
                                "items": {"type": "string", "format": "binary"},
                            }
                        },
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


def build_router(registry: Registry, metrics: ServiceMetrics) -> APIRouter:
    """All routes but those that manage, over one registry."""
    router = APIRouter()
    _document_prediction_routes(router)
    _add_model_routes(router, registry)
    _add_health_routes(router, registry)
    _add_metrics_route(router, metrics)

    @router.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/docs")

    return router


def _document_prediction_routes(router: APIRouter) -> None:
    """For the document, and for other methods' 405: the application answers these before its router is asked.

    What comes here all the same is a path that ends in a newline, before which Starlette's pattern matches: there is no such route.
    """

    @router.post("/v1/predict", summary="Classify with the default model", **_PREDICT)
    async def predict_default() -> None:
        """Send an image as the body, several as multipart fields named `images`, or base64 in JSON."""
        raise HTTPException(404)

    @router.post("/v1/models/{model}/predict", summary="Classify with a model", **_PREDICT)
    async def predict(model: ModelName) -> None:  # noqa: ARG001  for the document
        """As /v1/predict, with the version that the model's `production` alias names."""
        raise HTTPException(404)

    @router.post(
        "/v1/models/{model}/versions/{version}/predict",
        summary="Classify with one version",
        **_PREDICT,
    )
    async def predict_version(model: ModelName, version: VersionNumber) -> None:  # noqa: ARG001  for the document
        """As /v1/predict; answers only where this very version is served."""
        raise HTTPException(404)


def _add_model_routes(router: APIRouter, registry: Registry) -> None:
    errors: dict[int | str, dict[str, Any]] = {
        404: {"model": Problem, "description": "No such model"},
        503: {"model": Problem, "description": "The model store can not be read"},
    }

    @router.get(
        "/v1/models", summary="List the models", tags=["models"], responses={503: errors[503]}
    )
    async def list_models() -> ModelList:
        """Every model of the store and the version of it that serves."""
        _require_readable(registry)
        models = [summarise(registry, model) for _, model in sorted(registry.models.items())]
        return ModelList(models=models)

    @router.get("/v1/models/{model}", summary="Show a model", tags=["models"], responses=errors)
    def show_model(model: ModelName) -> ModelDetail:
        """What serves, what its gates found, where it comes from, and why other versions do not serve."""
        _require_readable(registry)
        served = registry.models.get(model)
        if served is None:
            raise NotFoundError(
                f"there is no model {model!r}; there are {', '.join(sorted(registry.models)) or 'none'}"
            )
        return describe_model(registry, served)


def _add_health_routes(router: APIRouter, registry: Registry) -> None:
    @router.head("/health/live", include_in_schema=False)
    @router.get(
        "/health/live",
        summary="Is the process up?",
        tags=["health"],
        response_model_exclude_none=True,
    )
    async def live() -> Health:
        """200 while the process answers at all."""
        return Health(status="live")

    @router.head("/health/ready", include_in_schema=False)
    @router.get(
        "/health/ready",
        summary="May traffic be sent here?",
        tags=["health"],
        responses={503: {"model": Health}},
    )
    async def ready() -> Response:
        """200 when every required model serves, at least one; else 503. `reason` names models that do not serve."""
        health = _health(registry)
        return JSONResponse(
            health.model_dump(exclude_none=True), status_code=200 if registry.ready else 503
        )


def _add_metrics_route(router: APIRouter, metrics: ServiceMetrics) -> None:
    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        tags=["health"],
        response_class=PlainTextResponse,
    )
    def show_metrics(accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
        """Requests by outcome, latency by stage, batch sizes, queues, versions by state: in the text format or OpenMetrics."""
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, media_type = choose_encoder("")
        return Response(encode(metrics.registry), media_type=media_type)


def _require_readable(registry: Registry) -> None:
    if registry.error and not registry.loaded:
        raise NotReadyError("the model store can not be read; the server's log says why")


def _health(registry: Registry) -> Health:
    models = registry.models.values()
    missing = ", ".join(
        sorted(model.name for model in models if model.answering is None and model.state != "unloaded")
    )
    reasons = ["the model store can not be read"] if registry.error else []
    if missing and registry.loaded:
        reasons.append(f"no proven version of {missing}")
    if registry.loaded:
        absent = registry.required.missing(registry.models).items()
        reasons += [
            f"{setting} names {name}, which is not in the store" for name, setting in absent
        ]
    if registry.ready:
        return Health(status="ready", reason="; ".join(reasons) or None)
    if not registry.loaded and not registry.error:
        return Health(status="not ready", reason="the models are being loaded")
    return Health(status="not ready", reason="; ".join(reasons) or "the store holds no model")
