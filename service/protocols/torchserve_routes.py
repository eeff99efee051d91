"""TorchServe's routes besides predictions: health, models, and the default version of a model."""

import os
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.engine.loaded_version import LoadedVersion
from service.http.error_responses import SERVING_ERRORS
from service.http.management import BEARER, CHANGE_ERRORS, MOVE_ERRORS, ManagementRequests
from service.http.path_params import ModelName, parse_version_number
from service.protocols.torchserve import without_fraction
from service.protocols.torchserve_openapi import describe_torchserve_errors
from service.protocols.torchserve_schemas import (
    DescribedModel,
    ListedModel,
    ModelPage,
    ModelWorker,
    PingAnswer,
    SetDefaultAnswer,
    TorchServeVersion,
    VersionOrAll,
)
from service.versions.operations import Operations
from service.versions.registry import Registry

MAX_MODELS: Final = 1000
DEFAULT_LIMIT: Final = 100
ALL: Final = "all"
_MILLISECONDS: Final = 1000


def build_torchserve_router(registry: Registry, requests: ManagementRequests) -> APIRouter:
    """Build `/ping` and the routes under `/models`."""
    operations = Operations(registry)
    router = APIRouter(tags=["torchserve"])

    @router.get(
        "/ping",
        summary="Health",
        response_model=PingAnswer,
        responses={500: {"model": PingAnswer, "description": "Not every required model serves"}},
    )
    async def ping() -> Response:
        """As TorchServe, 500 if not every model that must serve does."""
        if registry.service_ready:
            return JSONResponse({"status": "Healthy"})
        return JSONResponse({"status": "Unhealthy"}, HTTPStatus.INTERNAL_SERVER_ERROR)

    @router.get(
        "/models",
        summary="List the models that serve",
        response_model_exclude_none=True,
        responses=describe_torchserve_errors("invalid_parameter"),
    )
    async def list_models(
        limit: Annotated[int, Query(ge=1, le=MAX_MODELS)] = DEFAULT_LIMIT,
        next_page_token: Annotated[int, Query(ge=0)] = 0,
    ) -> ModelPage:
        """Names and URLs, in pages of `limit`."""
        names = sorted(name for name, model in registry.models.items() if model.default_version)
        end = next_page_token + limit
        page = [
            ListedModel(model_name=name, model_url=_url(registry.find(name)))
            for name in names[next_page_token:end]
        ]
        return ModelPage(next_page_token=str(end) if end < len(names) else None, models=page)

    @router.get(
        "/models/{model}",
        summary="Describe a model",
        responses=describe_torchserve_errors(*SERVING_ERRORS),
    )
    async def show_model(model: ModelName) -> list[DescribedModel]:
        """The version that answers."""
        return [_describe(registry.find(model))]

    @router.get(
        "/models/{model}/{version}",
        summary="Describe versions of a model",
        responses=describe_torchserve_errors(*SERVING_ERRORS),
    )
    async def show_version(model: ModelName, version: VersionOrAll) -> list[DescribedModel]:
        """One version, or each one that serves."""
        if version == ALL:
            registry.find(model)
            serving = registry.models[model].serving
            return [_describe(loaded) for _, loaded in sorted(serving.items())]
        number = parse_version_number(without_fraction(version))
        return [_describe(registry.find(model, number))]

    @router.put(
        "/models/{model}/{version}/set-default",
        summary="Set the default version of a model",
        dependencies=[Depends(BEARER)],
        responses=describe_torchserve_errors(*CHANGE_ERRORS, *MOVE_ERRORS),
    )
    async def set_default(
        by: Annotated[str, Depends(requests.authorise)],
        request: Request,
        model: ModelName,
        version: TorchServeVersion,
    ) -> SetDefaultAnswer:
        """Move `production` in the store, after proving the version on this replica."""
        number = parse_version_number(without_fraction(version))
        await requests.read(request)
        await requests.run(
            request, lambda: operations.promote(model, number, "set-default of TorchServe", by)
        )
        return SetDefaultAnswer(
            status=f'Default version succesfully updated for model "{model}" to "{version}"'
        )

    return router


def _url(loaded: LoadedVersion) -> str:
    return f"{loaded.version.model}/{loaded.version.number}"


def _describe(loaded: LoadedVersion) -> DescribedModel:
    """A version in TorchServe's words. Its workers are the instances, which share one process."""
    instances = loaded.options.instances
    gpu = loaded.options.session.providers[0] != "CPUExecutionProvider"
    return DescribedModel(
        model_name=loaded.version.model,
        model_version=str(loaded.version.number),
        model_url=_url(loaded),
        min_workers=instances,
        max_workers=instances,
        batch_size=loaded.max_batch_size,
        max_batch_delay=round(loaded.options.max_queue_delay_seconds * _MILLISECONDS),
        workers=[
            ModelWorker(id=str(number), pid=os.getpid(), gpu=gpu) for number in range(instances)
        ],
    )
