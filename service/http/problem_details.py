"""The one place that turns errors into responses: RFC 9457 problem details. A client never sees a traceback or a path."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from model_store.errors import ImageError
from service.errors import ServiceError, problem, status_of
from service.prediction.pipeline import ClientDisconnectedError

CLIENT_CLOSED_REQUEST: Final = 499  # nobody reads it; logs do
PROBLEM: Final = "application/problem+json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, with the code of the problem that it tells of."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"
    code: str = "ok"


def reply_to(error: Exception, asked: str) -> Reply:
    """What a client is told of any error; `asked` is the method and path, for the log of what is our own fault."""
    match error:
        case ServiceError():
            return _tell(problem(error.status, error.code, str(error), error.errors), error.headers)
        case ImageError():
            return _tell(problem(status_of(error), error.code, str(error)))
        case ClientDisconnect() | ClientDisconnectedError():
            return Reply(CLIENT_CLOSED_REQUEST, b"", code="client_closed_request")
        case _:
            logger.error("%s failed", asked, exc_info=error)
            return _tell(
                problem(
                    500, "internal_error", "an error on our side; the server's log has the reason"
                )
            )


def add_error_handlers(app: FastAPI) -> None:
    """Register a handler for every error that can leave a route."""

    async def on_own_error(request: Request, error: Exception) -> Response:
        return to_response(reply_to(error, f"{request.method} {request.url.path}"))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  registered for this class alone
        code = {404: "route_not_found", 405: "method_not_allowed"}.get(
            error.status_code, "http_error"
        )
        detail = f"{request.method} {request.url.path}: {error.detail}; GET /docs lists the routes"
        return to_response(_tell(problem(error.status_code, code, detail), error.headers or {}))

    async def on_invalid_parameter(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  as above
        first = error.errors()[0]
        detail = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        return to_response(_tell(problem(400, "invalid_parameter", detail)))

    for kind in (ServiceError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, on_own_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_parameter)


def to_response(reply: Reply) -> Response:
    """For FastAPI's routes."""
    return Response(reply.body, reply.status, dict(reply.headers), reply.media_type)


def _tell(document: dict[str, Any], headers: Mapping[str, str] | None = None) -> Reply:
    body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    return Reply(document["status"], body, headers or {}, PROBLEM, document["code"])
