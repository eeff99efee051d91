"""The Open Inference routes besides inference, which `rest_infer` answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.requests import Request

from service.engine.loaded_version import LoadedVersion
from service.errors import NotReadyError
from service.http.api_keys import ApiKeys
from service.http.error_responses import (
    BODY_ERRORS,
    KEY_ERRORS,
    MANAGE_KEY_ERRORS,
    SERVING_ERRORS,
)
from service.http.health import describe_health, describe_stopped
from service.http.management import (
    BEARER,
    ManagementRequests,
    describe_body,
    parse_management_body,
)
from service.http.path_params import ModelName, VersionNumber
from service.http.service_counts import ServiceCounts
from service.protocols.open_inference.errors import describe_open_inference_errors
from service.protocols.open_inference.metadata import (
    describe_config,
    describe_metadata,
    describe_server,
)
from service.protocols.open_inference.repository import check_change, list_repository
from service.protocols.open_inference.schemas import (
    ModelConfig,
    ModelMetadata,
    ModelReadiness,
    RepositoryChange,
    RepositoryModel,
    RepositoryQuery,
    ServerLiveness,
    ServerMetadata,
    ServerReadiness,
    StatisticsAnswer,
)
from service.protocols.open_inference.statistics import describe_statistics, find_served
from service.versions.operations import Operations
from service.versions.registry import Registry

_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = f"{_MODEL}/versions/{{version}}"


_MODEL_ERRORS: Final = describe_open_inference_errors(*SERVING_ERRORS)
_INDEX_ERRORS: Final = (*MANAGE_KEY_ERRORS, *BODY_ERRORS, "malformed_json", "not_ready")
_CHANGE_ERRORS: Final = (*_INDEX_ERRORS, "invalid_parameter", "model_not_found")
_STATISTICS_ERRORS: Final = describe_open_inference_errors(*KEY_ERRORS, *SERVING_ERRORS)


def build_open_inference_router(
    registry: Registry, counts: ServiceCounts, requests: ManagementRequests, keys: ApiKeys
) -> APIRouter:
    """Build the routes under `/v2`.

    Args:
        registry: The models.
        counts: What the service has counted.
        requests: The management requests of all protocols.
        keys: The API keys.
    """
    router = APIRouter(tags=["open inference"])
    _add_server_routes(router, registry)
    _add_model_routes(router, registry, counts, keys)
    _add_repository_routes(router, registry, requests)
    return router


def _add_server_routes(router: APIRouter, registry: Registry) -> None:
    @router.get("/v2", summary="Server metadata", responses=describe_open_inference_errors())
    async def server() -> ServerMetadata:
        """Name, version and extensions."""
        return describe_server()

    @router.get(
        "/v2/health/live",
        summary="Is the server live?",
        responses=describe_open_inference_errors("not_ready"),
    )
    async def live() -> ServerLiveness:
        """200 while the process works, as `/health/live`."""
        if reason := describe_stopped(registry):
            raise NotReadyError(reason)
        return ServerLiveness(live=True)

    @router.get(
        "/v2/health/ready",
        summary="Is the server ready?",
        responses=describe_open_inference_errors("not_ready"),
    )
    async def ready() -> ServerReadiness:
        """200 if every required model serves, and at least one model does."""
        if not registry.service_ready:
            raise NotReadyError(describe_health(registry).reason or "not ready")
        return ServerReadiness(ready=True)


def _add_model_routes(
    router: APIRouter, registry: Registry, counts: ServiceCounts, keys: ApiKeys
) -> None:
    async def find_model(model: ModelName) -> LoadedVersion:
        return registry.find(model)

    async def find_version(model: ModelName, version: VersionNumber) -> LoadedVersion:
        return registry.find(model, version)

    async def find_all() -> list[LoadedVersion]:
        return find_served(registry, None, None)

    async def find_all_of_model(model: ModelName) -> list[LoadedVersion]:
        return find_served(registry, model, None)

    async def find_only_version(model: ModelName, version: VersionNumber) -> list[LoadedVersion]:
        return find_served(registry, model, version)

    # Statistics first: otherwise `/v2/models/stats` would be the metadata of a model `stats`.
    for path, find_versions in (
        ("/v2/models", find_all),
        (_MODEL, find_all_of_model),
        (_VERSION, find_only_version),
    ):
        _add_statistics_route(router, counts, path, find_versions, keys)
    for path, find in ((_MODEL, find_model), (_VERSION, find_version)):
        _add_description_routes(router, registry, path, find)


def _add_description_routes(
    router: APIRouter,
    registry: Registry,
    path: str,
    find: Callable[..., Awaitable[LoadedVersion]],
) -> None:
    Found = Annotated[LoadedVersion, Depends(find)]  # noqa: N806  a type

    @router.get(path, summary="Model metadata", responses=_MODEL_ERRORS)
    async def metadata(loaded: Found) -> ModelMetadata:
        """Inputs, outputs and the versions that serve."""
        return describe_metadata(loaded, registry)

    @router.get(f"{path}/ready", summary="Is the model ready?", responses=_MODEL_ERRORS)
    async def ready(loaded: Found) -> ModelReadiness:
        """200 if it serves."""
        return ModelReadiness(name=loaded.version.model, ready=True)

    @router.get(
        f"{path}/config",
        summary="Model configuration",
        responses=_MODEL_ERRORS,
        response_model_exclude_none=True,
    )
    async def config(loaded: Found) -> ModelConfig:
        """The configuration in Triton's terms."""
        return describe_config(loaded)


def _add_statistics_route(
    router: APIRouter,
    counts: ServiceCounts,
    path: str,
    find: Callable[..., Awaitable[list[LoadedVersion]]],
    keys: ApiKeys,
) -> None:
    may_read = [Depends(keys.require("metrics"))]

    @router.get(
        f"{path}/stats",
        summary="Statistics",
        responses=_STATISTICS_ERRORS,
        dependencies=may_read,
    )
    async def stats(found: Annotated[list[LoadedVersion], Depends(find)]) -> StatisticsAnswer:
        """Counts and cumulative times of each version that serves."""
        versions = await counts.versions()
        return StatisticsAnswer(
            model_stats=[describe_statistics(loaded, versions) for loaded in found]
        )


def _add_repository_routes(
    router: APIRouter, registry: Registry, requests: ManagementRequests
) -> None:
    operations = Operations(registry)
    key = [Depends(BEARER), Depends(requests.authorise)]

    @router.post(
        "/v2/repository/index",
        summary="List the repository",
        dependencies=key,
        responses=describe_open_inference_errors(*_INDEX_ERRORS),
        response_model_exclude_none=True,
        openapi_extra=describe_body(RepositoryQuery),
    )
    async def index(request: Request) -> list[RepositoryModel]:
        """Every version in the store and in this process, and its state."""
        query = parse_management_body(await requests.read(request), RepositoryQuery)
        return await asyncio.to_thread(list_repository, registry, only_ready=query.ready)

    @router.post(
        "/v2/repository/models/{model}/load",
        summary="Load a model",
        dependencies=key,
        responses=describe_open_inference_errors(*_CHANGE_ERRORS, "version_failed"),
        openapi_extra=describe_body(RepositoryChange),
    )
    async def load(request: Request, model: ModelName) -> dict[str, Any]:
        """Serve what the version policy selects, even if it was unloaded or failed before.

        Responds once the model serves.
        """
        check_change(parse_management_body(await requests.read(request), RepositoryChange))
        await requests.run(request, lambda: operations.load_model(model))
        return {}

    @router.post(
        "/v2/repository/models/{model}/unload",
        summary="Unload a model",
        dependencies=key,
        responses=describe_open_inference_errors(*_CHANGE_ERRORS, "last_version"),
        openapi_extra=describe_body(RepositoryChange),
    )
    async def unload(request: Request, model: ModelName) -> dict[str, Any]:
        """Stop serving the versions that the store has now. Requests in progress finish on them.

        Lasts until the model is loaded, the replica restarts or another version is published.
        """
        check_change(parse_management_body(await requests.read(request), RepositoryChange))
        await requests.run(request, lambda: operations.unload_model(model))
        return {}
