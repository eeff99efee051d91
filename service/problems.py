"""The one place that turns errors into responses: RFC 9457 problem details. A client never sees a traceback or a path."""

import logging
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from model_store.errors import ImageError
from service.errors import ServiceError, problem, status_of
from service.prediction import ClientDisconnectedError

CLIENT_CLOSED_REQUEST: Final = 499  # nobody reads it; logs do
logger = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Register a handler for every error that can leave a route."""

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
