"""The routes that change what serves. Each needs a key with the scope `manage`, which is checked before all else."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Depends
from fastapi import Path as PathParameter
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request

from service.errors import BadRequestError, BodyTimeoutError, TooLargeError
from service.http.api_keys import ApiKeys
from service.http.models import ModelName, VersionNumber
from service.versions.operations import Operations
from service.versions.registry import Registry
from service.versions.views import ModelDetail

T = TypeVar("T", bound=BaseModel)
MAX_BODY_BYTES: Final = 16 * 1024
AliasName = Annotated[
    str,
    PathParameter(
        description="An alias: a name that begins with a letter. One that is new is made."
    ),
]
_PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_RESPONSES: Final[
    dict[int | str, dict[str, Any]]
] = {  # by reference: a model for each of these would cost the start 15 ms
    status: {"content": _PROBLEM, "description": description}
    for status, description in {
        400: "A name, version or body that is not understood",
        401: "No key, or one that is not known",
        403: "A key without the scope `manage`, or there is no such key yet",
        404: "No such model or version in the store",
        408: "The body came too slowly",
        409: "The version can not be proven, the last one would go, or the alias can not be moved; `code` says which",
        413: "Too large a body",
        503: "The store or the version can not be read",
    }.items()
}


class Reason(BaseModel):
    """The body of a promotion or a rollback; it may be left out."""

    model_config = ConfigDict(extra="forbid")

    why: Annotated[str, Field(max_length=1000)] = ""


class AliasMove(Reason):
    """The body of an alias's move."""

    version: Annotated[int, Field(ge=1, strict=True)]


_WHY: Final = {
    "why": {
        "type": "string",
        "maxLength": 1000,
        "description": "The reason, kept in the alias's history.",
    }
}
_REASON: Final[dict[str, Any]] = {
    "requestBody": {
        "content": {"application/json": {"schema": {"type": "object", "properties": _WHY}}}
    },
}
_ALIAS_MOVE: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"version": {"type": "integer", "minimum": 1}, **_WHY},
                    "required": ["version"],
                }
            }
        },
    },
}


def build_management_router(
    registry: Registry, keys: ApiKeys, body_timeout_seconds: float
) -> APIRouter:
    """The routes over one registry; one at a time changes something, the others wait."""
    management, turn = Operations(registry), asyncio.Lock()

    async def authorise(request: Request) -> str:
        return f"key {keys.check(request.headers.get('authorization'), 'manage')}"

    async def take_turn(request: Request, change: Callable[[], ModelDetail]) -> ModelDetail:
        async with turn:  # here and not in the threads, of which those who wait would take all
            await _check_still_there(request)
            return await asyncio.to_thread(change)

    async def read(request: Request, shape: type[T]) -> T:
        return _parse(await _read_body(request, body_timeout_seconds), shape)

    documented = Depends(
        HTTPBearer(
            auto_error=False, description="A key that `python -m service keys add` has printed."
        )
    )
    router = APIRouter(tags=["management"], responses=_RESPONSES, dependencies=[documented])

    @router.post("/v1/models/{model}/versions/{version}/load", summary="Serve a version too")
    async def load(
        _: Annotated[str, Depends(authorise)],
        request: Request,
        model: ModelName,
        version: VersionNumber,
    ) -> ModelDetail:
        """On this replica, whatever the policy says, until it is taken back or the replica restarts. Answers when it serves."""
        await _read_body(request, body_timeout_seconds)
        return await take_turn(request, lambda: management.load(model, version))

    @router.post("/v1/models/{model}/versions/{version}/unload", summary="Do not serve a version")
    async def unload(
        _: Annotated[str, Depends(authorise)],
        request: Request,
        model: ModelName,
        version: VersionNumber,
    ) -> ModelDetail:
        """On this replica, whatever the policy says, until it is taken back or the replica restarts; open requests end on it."""
        await _read_body(request, body_timeout_seconds)
        return await take_turn(request, lambda: management.unload(model, version))

    @router.delete(
        "/v1/models/{model}/versions/{version}/hold", summary="Leave a version to the policy again"
    )
    async def release(
        _: Annotated[str, Depends(authorise)],
        request: Request,
        model: ModelName,
        version: VersionNumber,
    ) -> ModelDetail:
        """Takes back what `load` or `unload` said of it on this replica."""
        await _read_body(request, body_timeout_seconds)
        return await take_turn(request, lambda: management.release(model, version))

    @router.post(
        "/v1/models/{model}/versions/{version}/promote",
        summary="Promote a version",
        openapi_extra=_REASON,
    )
    async def promote(
        by: Annotated[str, Depends(authorise)],
        request: Request,
        model: ModelName,
        version: VersionNumber,
    ) -> ModelDetail:
        """Points `production` to it in the store, which every replica follows, once it was proven here."""
        why = (await read(request, Reason)).why
        return await take_turn(request, lambda: management.promote(model, version, why, by))

    @router.post(
        "/v1/models/{model}/rollback", summary="Undo the newest promotion", openapi_extra=_REASON
    )
    async def roll_back(
        by: Annotated[str, Depends(authorise)], request: Request, model: ModelName
    ) -> ModelDetail:
        """Points `production` to what it named before, once that was proven here. A second one goes a step further back."""
        why = (await read(request, Reason)).why
        return await take_turn(request, lambda: management.roll_back(model, why, by))

    @router.put(
        "/v1/models/{model}/aliases/{alias}", summary="Move an alias", openapi_extra=_ALIAS_MOVE
    )
    async def move_alias(
        by: Annotated[str, Depends(authorise)], request: Request, model: ModelName, alias: AliasName
    ) -> ModelDetail:
        """As a promotion, of any alias."""
        move = await read(request, AliasMove)
        return await take_turn(
            request, lambda: management.promote(model, move.version, move.why, by, alias)
        )

    return router


async def _check_still_there(request: Request) -> None:
    """Raises ClientDisconnect for one that has left, once its body was read: it may ask again, and two rollbacks are not one."""
    if await request.is_disconnected():
        raise ClientDisconnect


async def _read_body(request: Request, timeout_seconds: float) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(timeout_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise TooLargeError(
                        f"the body has more than {MAX_BODY_BYTES:,} bytes, which are allowed"
                    )
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not arrive within {timeout_seconds:g} s") from None
    return body


def _parse(body: bytes, shape: type[T]) -> T:
    try:
        return shape.model_validate_json(body or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise BadRequestError(
            f"the body is not as GET /docs says: {reason}", code="malformed_json"
        ) from None
