"""The routes: what is answered under which path."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from pydantic import BeforeValidator
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from model_store.errors import InvalidNameError
from model_store.manifest import parse_version
from service.errors import NotFoundError, NotReadyError
from service.images import FIELD
from service.keys import Keys
from service.model_details import describe_model, summarise
from service.prediction import DEFAULT_TOP_K, Predictor
from service.registry import Registry
from service.schemas import Health, ModelDetail, ModelList, PredictResponse, Problem


def _canonical(text: str) -> int:
    try:
        return parse_version(text)
    except InvalidNameError as error:
        raise ValueError(str(error)) from None


ModelName = Annotated[str, Path(description="A model's name, as GET /v1/models lists it.")]
VersionNumber = Annotated[int, BeforeValidator(_canonical), Path(description="A version that is served.", ge=1)]

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
        "parameters": [
            {
                "name": "top_k",
                "in": "query",
                "description": "How many classes to return, best first; capped at the model's classes.",
                "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
            },
            {
                "name": "coverage",
                "in": "query",
                "description": "Also return the set of labels that holds the right one with this probability. "
                "What a model offers stands in its `coverages`; others, and a model without any, are a 400 problem.",
                "schema": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                "example": 0.95,
            },
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


def build_router(registry: Registry, predictor: Predictor, keys: Keys) -> APIRouter:
    """All routes but those that manage, over one registry and one predictor."""
    router = APIRouter()
    _add_prediction_routes(router, predictor, keys)
    _add_model_routes(router, registry)
    _add_health_routes(router, registry)

    @router.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/docs")

    return router


def _add_prediction_routes(router: APIRouter, predictor: Predictor, keys: Keys) -> None:
    def check_key(request: Request) -> None:
        keys.check(request.headers.get("authorization"), "predict")

    @router.post("/v1/predict", summary="Classify with the default model", **_PREDICT)
    async def predict_default(request: Request) -> Response:
        """Send an image as the body, several as multipart fields named `images`, or base64 in JSON."""
        check_key(request)
        return await predictor.predict(request, None, None)

    @router.post("/v1/models/{model}/predict", summary="Classify with a model", **_PREDICT)
    async def predict(request: Request, model: ModelName) -> Response:
        """As /v1/predict, with the version that the model's `production` alias names."""
        check_key(request)
        return await predictor.predict(request, model, None)

    @router.post("/v1/models/{model}/versions/{version}/predict", summary="Classify with one version", **_PREDICT)
    async def predict_version(request: Request, model: ModelName, version: VersionNumber) -> Response:
        """As /v1/predict; answers only where this very version is served."""
        check_key(request)
        return await predictor.predict(request, model, version)


def _add_model_routes(router: APIRouter, registry: Registry) -> None:
    errors: dict[int | str, dict[str, Any]] = {
        404: {"model": Problem, "description": "No such model"},
        503: {"model": Problem, "description": "The model store can not be read"},
    }

    @router.get("/v1/models", summary="List the models", tags=["models"], responses={503: errors[503]})
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
            raise NotFoundError(f"there is no model {model!r}; there are {', '.join(sorted(registry.models)) or 'none'}")
        return describe_model(registry, served)


def _add_health_routes(router: APIRouter, registry: Registry) -> None:
    @router.head("/health/live", include_in_schema=False)
    @router.get("/health/live", summary="Is the process up?", tags=["health"], response_model_exclude_none=True)
    async def live() -> Health:
        """200 while the process answers at all."""
        return Health(status="live")

    @router.head("/health/ready", include_in_schema=False)
    @router.get("/health/ready", summary="May traffic be sent here?", tags=["health"], responses={503: {"model": Health}})
    async def ready() -> Response:
        """200 when every model that can be proven serves, at least one; else 503. `reason` names models that do not serve."""
        health = _health(registry)
        return JSONResponse(health.model_dump(exclude_none=True), status_code=200 if registry.ready else 503)


def _require_readable(registry: Registry) -> None:
    if registry.error and not registry.loaded:
        raise NotReadyError("the model store can not be read; the server's log says why")


def _health(registry: Registry) -> Health:
    models = registry.models.values()
    missing = ", ".join(sorted(model.name for model in models if model.served is None and model.state != "unloaded"))
    reasons = ["the model store can not be read"] if registry.error else []
    if missing and registry.loaded:
        reasons.append(f"no proven version of {missing}")
    if registry.ready:
        return Health(status="ready", reason="; ".join(reasons) or None)
    if not registry.loaded and not registry.error:
        return Health(status="not ready", reason="the models are being loaded")
    return Health(status="not ready", reason="; ".join(reasons) or "the store holds no model")
