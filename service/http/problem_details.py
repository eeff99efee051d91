"""Turn errors into responses: RFC 9457 problem details, without tracebacks or file paths."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from model_store.errors import ImageError
from service.errors import ClientDisconnectedError, ServiceError, problem, shorten, status_of

CLIENT_CLOSED_REQUEST: Final = 499  # for metrics and logs; the client is gone
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
_HTTP_ERROR_CODES: Final[Mapping[int, str]] = {
    HTTPStatus.NOT_FOUND: "route_not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
}
logger = logging.getLogger(__name__)


@dataclass(slots=True)  # not frozen: that would double the time to create one
class Reply:
    """A response. `code` is "ok" or the error code, for metrics and logs."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"
    code: str = "ok"


@dataclass(slots=True)
class ErrorReport:
    """What a client is told about an error, in any format."""

    status: int
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: Sequence[Mapping[str, Any]] = ()


def report_error(error: Exception, request_line: str) -> ErrorReport:
    """Describe any error to a client.

    Args:
        error: Any exception. Unexpected ones are logged and become a 500.
        request_line: Method and path, for messages and for the log of unexpected errors.
    """
    match error:
        case ServiceError():
            return ErrorReport(error.status, error.code, str(error), error.headers, error.errors)
        case ImageError():
            return ErrorReport(status_of(error), error.code, str(error))
        case ClientDisconnectedError():
            return ErrorReport(CLIENT_CLOSED_REQUEST, "client_closed_request", "")
        case HTTPException():
            code = _HTTP_ERROR_CODES.get(error.status_code, "http_error")
            detail = f"{request_line}: {error.detail}; GET /docs lists the routes"
            headers = error.headers or {}
            return ErrorReport(error.status_code, code, detail, headers)
        case RequestValidationError():
            first = error.errors()[0]
            detail = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            return ErrorReport(HTTPStatus.BAD_REQUEST, "invalid_parameter", detail)
        case RuntimeError() | MemoryError() if _is_shortage(error):
            logger.warning("%s rejected reason=%r", request_line, str(error) or "no memory")
            detail = "this replica is short of threads or memory; retry after 1 s"
            headers = {"Retry-After": "1"}
            return ErrorReport(HTTPStatus.TOO_MANY_REQUESTS, "overloaded", detail, headers)
        case _:
            logger.error("%s failed", request_line, exc_info=error)
            detail = "internal error; the log of the server has the reason"
            return ErrorReport(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", detail)


def _is_shortage(error: Exception) -> bool:
    """Whether the system had no memory or thread left, which says nothing about the request."""
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)


def reply_to(error: Exception, request_line: str) -> Reply:
    """Turn any error into problem details. The arguments are those of `report_error`."""
    report = report_error(error, request_line)
    if report.status == CLIENT_CLOSED_REQUEST:
        return Reply(report.status, b"", code=report.code)
    document = problem(report.status, report.code, report.detail, report.errors)
    body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    return Reply(report.status, body, report.headers, PROBLEM_MEDIA_TYPE, report.code)


def add_error_handlers(
    app: FastAPI, others: Mapping[str, Callable[[Exception, str], Reply]]
) -> None:
    """Turn the errors of all routes into problem details.

    Args:
        app: The application.
        others: For paths with a prefix like `/v2`, a function to use instead of `reply_to`.
    """

    async def handle(request: Request, error: Exception) -> Response:
        path = request.scope["path"].removeprefix(request.scope["root_path"])
        prefix = f"/{path.split('/')[1]}"
        reply = others.get(prefix, reply_to)
        return to_response(reply(error, f"{request.method} {shorten(request.url.path)}"))

    for kind in (
        ServiceError,
        ClientDisconnectedError,
        HTTPException,
        RequestValidationError,
        RuntimeError,  # what is not listed is raised again after the response, for uvicorn's log
        MemoryError,
        Exception,
    ):
        app.add_exception_handler(kind, handle)


def to_response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, dict(reply.headers), reply.media_type)
