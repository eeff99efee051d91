"""Small ASGI applications that answer one request, and scopes as FastAPI expects them."""

from collections.abc import Callable, Iterable
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import shorten
from service.http.access_log import MAX_PATH_LENGTH
from service.http.dialect import Dialect
from service.http.problem_details import Reply, to_response


def to_api_scope(scope: Scope, root_path: str, path: str) -> Scope:
    """The request as FastAPI's routes expect it.

    A slash at the end is dropped. HEAD becomes GET, whose body uvicorn does not send then.
    """
    return {
        **scope,
        "method": "GET" if scope["method"] == "HEAD" else scope["method"],
        "root_path": root_path,
        "path": root_path + (path.removesuffix("/") or "/"),
    }


def allow_head(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Add HEAD to an `Allow` header with GET, because `to_api_scope` turns HEAD into GET."""
    return [
        (name, value.replace(b"GET", b"GET, HEAD") if name == b"allow" else value)
        for name, value in headers
    ]


def method_not_allowed(dialect: Dialect) -> ASGIApp:
    error = HTTPException(
        HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": ", ".join(dialect.methods)}
    )
    return reply_with(error, dialect.reply_to)


def reply_with(error: Exception, reply_to: Callable[[Exception, str], Reply]) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        response = to_response(reply_to(error, request_line(scope)))
        await response(scope, receive, send)

    return answer


def request_line(scope: Scope) -> str:
    path = scope["raw_path"].decode("ascii", "backslashreplace")
    return f"{scope['method']} {shorten(path, MAX_PATH_LENGTH)}"
