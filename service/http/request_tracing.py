"""The span of an HTTP request, by OpenTelemetry's semantic conventions for HTTP servers.

Without `SERVICE_OTLP_ENDPOINT` nothing here is called, and OpenTelemetry is not imported.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.types import Scope

from service.error_codes import ERROR_CODES
from service.errors import shorten
from service.http.access_log import MAX_PATH_LENGTH
from service.http.request_ids import RequestIds
from service.prediction.request import RequestRecord

if TYPE_CHECKING:
    from service.tracing import RequestTrace, Tracing

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
OTHER_METHOD: Final = "_OTHER"


def describe_route(path: str, path_params: Mapping[str, str]) -> str:
    """The path with the names of its parameters in place of the client's values."""
    names = {value: f"{{{name}}}" for name, value in path_params.items()}
    segments = [segment.partition(":") for segment in path.split("/")]
    return "/".join(names.get(head, head) + colon + tail for head, colon, tail in segments)


def start_trace(
    tracing: "Tracing",
    scope: Scope,
    headers: Mapping[str, str],
    ids: RequestIds,
    started: float,
    route: str = "",
) -> "RequestTrace":
    """Begin the span of a request, and put its `traceparent` into the ids of the response."""
    method = scope["method"] if scope["method"] in _METHODS else OTHER_METHOD
    raw_path = scope["raw_path"].decode("ascii", "backslashreplace")
    attributes = {
        "http.request.method": method,
        "url.path": shorten(raw_path, MAX_PATH_LENGTH),
        "resident.request_id": ids.request_id,
    }
    if route:
        attributes["http.route"] = route
    name = "HTTP" if method == OTHER_METHOD else f"{method} {route}".strip()
    trace = tracing.start(name, headers, attributes, started)
    ids.traceparent = trace.headers["traceparent"]
    return trace


def end_trace(
    trace: "RequestTrace", status: int, code: str = "", record: RequestRecord | None = None
) -> None:
    """End the span of a request: its status, outcome, model, version and images."""
    attributes: dict[str, str | int] = {"http.response.status_code": status}
    if record:
        attributes |= _describe_record(record, code)
    fault = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    trace.end(attributes, (code or str(status)) if fault else None)


def end_call_trace(trace: "RequestTrace", code: str, record: RequestRecord) -> None:
    """End the span of a gRPC call."""
    fault = code in ERROR_CODES and ERROR_CODES[code].status >= HTTPStatus.INTERNAL_SERVER_ERROR
    trace.end(_describe_record(record, code), code if fault else None)


def _describe_record(record: RequestRecord, code: str) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {"resident.outcome": code, "resident.images": record.images}
    if record.model:
        attributes |= {"resident.model": record.model, "resident.version": record.version}
    return attributes
