"""TorchServe's routes besides predictions: health, models, and the default version of a model."""

import os
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.engine.loaded_version import LoadedVersion
from service.http.management import ManagementRequests
from service.http.path_params import ModelName, parse_version_number
from service.protocols.torchserve import without_fraction
from service.versions.operations import Operations
from service.versions.registry import Registry

MAX_MODELS: Final = 1000
DEFAULT_LIMIT: Final = 100
ALL: Final = "all"
_MILLISECONDS: Final = 1000


def build_torchserve_router(registry: Registry, requests: ManagementRequests) -> APIRouter:
    """Build `/ping` and the routes under `/models`.

    They are not in the OpenAPI document: programs that call them were written for TorchServe.
    """
    operations = Operations(registry)
    router = APIRouter(include_in_schema=False)

    @router.get("/ping")
    async def ping() -> Response:
        """As TorchServe, 500 if not every model that must serve does."""
        if registry.service_ready:
            return JSONResponse({"status": "Healthy"})
        return JSONResponse({"status": "Unhealthy"}, HTTPStatus.INTERNAL_SERVER_ERROR)

    @router.get("/models")
    async def list_models(
        limit: Annotated[int, Query(ge=1, le=MAX_MODELS)] = DEFAULT_LIMIT,
        next_page_token: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        names = sorted(name for name, model in registry.models.items() if model.default_version)
        end = next_page_token + limit
        page = [
            {"modelName": name, "modelUrl": _url(registry.find(name))}
            for name in names[next_page_token:end]
        ]
        more = {"nextPageToken": str(end)} if end < len(names) else {}
        return {**more, "models": page}

    @router.get("/models/{model}")
    async def show_model(model: ModelName) -> list[dict[str, Any]]:
        return [_describe(registry.find(model))]

    @router.get("/models/{model}/{version}")
    async def show_version(model: ModelName, version: str) -> list[dict[str, Any]]:
        if version == ALL:
            registry.find(model)
            serving = registry.models[model].serving
            return [_describe(loaded) for _, loaded in sorted(serving.items())]
        number = parse_version_number(without_fraction(version))
        return [_describe(registry.find(model, number))]

    @router.put("/models/{model}/{version}/set-default")
    async def set_default(
        by: Annotated[str, Depends(requests.authorise)],
        request: Request,
        model: ModelName,
        version: str,
    ) -> dict[str, str]:
        """Move `production` in the store, after proving the version on this replica."""
        number = parse_version_number(without_fraction(version))
        await requests.read(request)
        await requests.run(
            request, lambda: operations.promote(model, number, "set-default of TorchServe", by)
        )
        return {"status": f'Default version succesfully updated for model "{model}" to "{version}"'}

    return router


def _url(loaded: LoadedVersion) -> str:
    return f"{loaded.version.model}/{loaded.version.number}"


def _describe(loaded: LoadedVersion) -> dict[str, Any]:
    """A version in TorchServe's words. Its workers are the instances, which share one process."""
    instances = loaded.options.instances
    worker = {
        "status": "READY",
        "pid": os.getpid(),
        "gpu": loaded.options.session.providers[0] != "CPUExecutionProvider",
    }
    return {
        "modelName": loaded.version.model,
        "modelVersion": str(loaded.version.number),
        "modelUrl": _url(loaded),
        "runtime": "onnxruntime",
        "minWorkers": instances,
        "maxWorkers": instances,
        "batchSize": loaded.max_batch_size,
        "maxBatchDelay": round(loaded.options.max_queue_delay_seconds * _MILLISECONDS),
        "loadedAtStartup": True,
        "workers": [{"id": str(number), **worker} for number in range(instances)],
    }
