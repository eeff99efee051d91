"""The routes that load, unload and promote versions. Each needs a key with the scope `manage`."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import Request

from model_store.names import MAX_VERSION
from model_store.validation import describe_validation_error, to_whole_number
from service.errors import BadRequestError, ClientDisconnectedError
from service.http.api_keys import ApiKeys
from service.http.error_responses import BODY_ERRORS, MANAGE_KEY_ERRORS, describe_errors
from service.http.json_body import BYTE_ORDER_MARK
from service.http.path_params import AliasName, ModelName, VersionNumber
from service.http.request_body import read_body
from service.versions.operations import Operations
from service.versions.registry import Registry
from service.versions.views import ModelDetail
from service.workers.exchange import Exchange

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")
MAX_BODY_BYTES: Final = 16 * 1024
BEARER: Final = HTTPBearer(auto_error=False, description="A key from `python -m service keys add`.")
CHANGE_ERRORS: Final = (
    *MANAGE_KEY_ERRORS,
    *BODY_ERRORS,
    *("invalid_parameter", "model_not_found", "version_not_found", "not_ready"),
)
"""Errors of every operation that changes which versions are served."""
MOVE_ERRORS: Final = ("malformed_json", "version_failed", "alias_not_moved", "store_read_only")
"""Further errors of operations that move an alias."""


class Reason(BaseModel):
    """The optional body of a promotion or a rollback."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"why": "fewer errors"}}
    )

    why: Annotated[str, Field(max_length=1000, description="Kept in the history of the alias.")] = (
        ""
    )


class AliasMove(Reason):
    """The body of an alias move."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"version": 1, "why": "fewer errors"}}
    )

    version: Annotated[
        int, Field(ge=1, le=MAX_VERSION, strict=True), BeforeValidator(to_whole_number)
    ]


def describe_body(body: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI document says of a body that `parse_management_body` parses."""
    schema = body.model_json_schema()
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": bool(schema.get("required")), "content": content}}


class ManagementRequests:
    """What all management routes do: check the key, read the body, run one change at a time.

    One instance serves all protocols.
    """

    def __init__(
        self, keys: ApiKeys, body_timeout_seconds: float, registry: Registry, exchange: Exchange
    ) -> None:
        self._keys = keys
        self._body_timeout_seconds = body_timeout_seconds
        self._registry = registry
        self._exchange = exchange
        self._lock = asyncio.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="management")

    async def authorise(self, request: Request) -> str:
        """The key of the request, as the history of an alias names it."""
        return f"key {self._keys.check(request.headers.get('authorization'), 'manage')}"

    async def read(self, request: Request) -> bytes:
        return await read_body(request.receive, MAX_BODY_BYTES, self._body_timeout_seconds)

    async def run(self, request: Request, change: Callable[[], Result]) -> Result:
        """As `run_alone`, unless the client has disconnected."""
        return await self.run_alone(change, partial(_check_connected, request))

    async def run_alone(
        self, change: Callable[[], Result], check: Callable[[], Awaitable[None]] | None = None
    ) -> Result:
        """Run a change while no other one runs in any worker of the service.

        It takes effect in all of them before this returns. `check` may raise to prevent it.
        """
        async with self._lock, self._exchange.change(self._registry):
            if check:
                await check()
            # Not in the pool that parses request bodies: a change may wait for a trial.
            return await asyncio.get_running_loop().run_in_executor(self._executor, change)


def build_management_router(registry: Registry, requests: ManagementRequests) -> APIRouter:
    """Build the management routes. Changes run one at a time."""
    operations = Operations(registry)
    router = APIRouter(tags=["management"], dependencies=[Depends(BEARER)])
    _add_version_routes(router, operations, requests)
    _add_alias_routes(router, operations, requests)
    return router


def _add_version_routes(
    router: APIRouter, operations: Operations, requests: ManagementRequests
) -> None:
    """The routes that change what this replica serves."""

    @router.post(
        "/v1/models/{model}/versions/{version}/load",
        summary="Load a version",
        responses=describe_errors(*CHANGE_ERRORS, "version_failed"),
    )
    async def load(
        _: Annotated[str, Depends(requests.authorise)],
        request: Request,
        model: ModelName,
        version: VersionNumber,
    ) -> ModelDetail:
        """Serve this version on this replica, whatever the version policy says.

        Lasts until it is released or the replica restarts. Responds once the version serves.
        """
        await requests.read(request)
        return await requests.run(request, lambda: operations.load(model, version))

    @router.post(
        "/v1/models/{model}/versions/{version}/unload",
        summary="Unload a version",
        responses=describe_errors(*CHANGE_ERRORS, "last_version", "not_unloaded"),
    )
    async def unload(
        _: Annotated[str, Depends(requests.authorise)],
        request: Request,
        model: ModelName,
        version: VersionNumber,
    ) -> ModelDetail:
        """Stop serving this version on this replica, whatever the version policy says.

        Lasts until it is released or the replica restarts. Requests in progress finish on it.
        """
        await requests.read(request)
        return await requests.run(request, lambda: operations.unload(model, version))

    @router.delete(
        "/v1/models/{model}/versions/{version}/hold",
        summary="Release a version",
        responses=describe_errors(*CHANGE_ERRORS, "last_version"),
    )
    async def release(
        _: Annotated[str, Depends(requests.authorise)],
        request: Request,
        model: ModelName,
        version: VersionNumber,
    ) -> ModelDetail:
        """Undo `load` or `unload` on this replica: the version policy decides again."""
        await requests.read(request)
        return await requests.run(request, lambda: operations.release(model, version))


def _add_alias_routes(
    router: APIRouter, operations: Operations, requests: ManagementRequests
) -> None:
    """The routes that change the store, which every replica follows."""

    @router.post(
        "/v1/models/{model}/versions/{version}/promote",
        summary="Promote a version",
        responses=describe_errors(*CHANGE_ERRORS, *MOVE_ERRORS),
        openapi_extra=describe_body(Reason),
    )
    async def promote(
        by: Annotated[str, Depends(requests.authorise)],
        request: Request,
        model: ModelName,
        version: VersionNumber,
    ) -> ModelDetail:
        """Point `production` to this version in the store, after proving it on this replica.

        Every replica follows the store.
        """
        why = parse_management_body(await requests.read(request), Reason).why
        return await requests.run(request, lambda: operations.promote(model, version, why, by))

    @router.post(
        "/v1/models/{model}/rollback",
        summary="Undo the newest promotion",
        responses=describe_errors(*CHANGE_ERRORS, *MOVE_ERRORS),
        openapi_extra=describe_body(Reason),
    )
    async def roll_back(
        by: Annotated[str, Depends(requests.authorise)], request: Request, model: ModelName
    ) -> ModelDetail:
        """Point `production` to the version before its newest promotion, after proving it.

        A second rollback goes back one more promotion.
        """
        why = parse_management_body(await requests.read(request), Reason).why
        return await requests.run(request, lambda: operations.roll_back(model, why, by))

    @router.put(
        "/v1/models/{model}/aliases/{alias}",
        summary="Move an alias",
        responses=describe_errors(*CHANGE_ERRORS, *MOVE_ERRORS),
        openapi_extra=describe_body(AliasMove),
    )
    async def move_alias(
        by: Annotated[str, Depends(requests.authorise)],
        request: Request,
        model: ModelName,
        alias: AliasName,
    ) -> ModelDetail:
        """As `promote`, for any alias."""
        move = parse_management_body(await requests.read(request), AliasMove)
        return await requests.run(
            request, lambda: operations.promote(model, move.version, move.why, by, alias)
        )


async def _check_connected(request: Request) -> None:
    """Raise ClientDisconnectedError if the client has disconnected.

    It may retry, and then a rollback would run twice.
    """
    if await request.is_disconnected():
        raise ClientDisconnectedError


def parse_management_body(body: bytes, model: type[Body]) -> Body:
    """Parse a body; an empty one has the defaults. Raises BadRequestError."""
    try:
        return model.model_validate_json(body.removeprefix(BYTE_ORDER_MARK) or b"{}")
    except ValidationError as error:
        raise BadRequestError(
            f"invalid body: {describe_validation_error(error)}; GET /docs describes it",
            code="malformed_json",
        ) from None
