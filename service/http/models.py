"""The routes that list and show models."""

from fastapi import APIRouter

from service.errors import NotFoundError, NotReadyError
from service.http.error_responses import SERVING_ERRORS, describe_errors
from service.http.path_params import ModelName, VersionNumber
from service.versions.registry import Registry
from service.versions.version_view import VersionDetail, describe_version
from service.versions.views import ModelDetail, ModelList, describe_model, summarise


def build_model_router(registry: Registry) -> APIRouter:
    """Build the routes under `/v1/models` that need no API key."""
    router = APIRouter(tags=["models"])

    @router.get("/v1/models", summary="List the models", responses=describe_errors("not_ready"))
    async def list_models() -> ModelList:
        """Every model of the store, and the version that answers for it."""
        _check_readable(registry)
        models = [summarise(registry, model) for _, model in sorted(registry.models.items())]
        return ModelList(models=models, default_model=registry.default_model)

    @router.get(
        "/v1/models/{model}",
        summary="Show a model",
        responses=describe_errors("model_not_found", "not_ready"),
    )
    def show_model(model: ModelName) -> ModelDetail:
        """The version that serves, its gates and origin, and why other versions do not serve."""
        _check_readable(registry)
        served = registry.models.get(model)
        if served is None:
            names = ", ".join(sorted(registry.models)) or "none"
            raise NotFoundError(f"there is no model {model!r}; the models are: {names}")
        return describe_model(registry, served)

    @router.get(
        "/v1/models/{model}/versions/{version}",
        summary="Show a version",
        responses=describe_errors(*SERVING_ERRORS),
    )
    def show_version(model: ModelName, version: VersionNumber) -> VersionDetail:
        """Its accuracy, gates and origin, whether or not it serves."""
        return describe_version(registry, model, version)

    return router


def _check_readable(registry: Registry) -> None:
    if registry.error and not registry.models:
        raise NotReadyError("the model store cannot be read; the log of the server has the reason")
