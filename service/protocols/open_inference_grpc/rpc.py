"""What all calls share: keys, ids, log lines, and errors as statuses of gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from service.errors import ClientDisconnectedError
from service.http.access_log import log_request
from service.http.problem_details import ErrorReport, report_error
from service.http.request_ids import REQUEST_ID, RequestIds
from service.prediction.request import RequestRecord
from service.protocols.open_inference.errors import error_message

SERVICE: Final = "inference.GRPCInferenceService"
if TYPE_CHECKING:
    from service.tracing import RequestTrace, Tracing

M = TypeVar("M", bound=Message)
Context: TypeAlias = grpc.aio.ServicerContext
_STATUSES: Final[Mapping[int, grpc.StatusCode]] = {
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.INTERNAL_SERVER_ERROR: grpc.StatusCode.INTERNAL,
}
_OTHER_STATUS: Final = grpc.StatusCode.INVALID_ARGUMENT
_RETURNED_HEADERS: Final = ("retry-after",)


@dataclass(slots=True)
class Rpc:
    """One call.

    Attributes:
        context: gRPC's context.
        method: Name of the method.
        headers: The metadata that the client sent, by name.
        ids: The ids of the call.
        code: The outcome for metrics and the log: `ok`, or the code of the error.
        prediction: What is known about the prediction, if it is one.
    """

    context: Context
    method: str
    headers: Mapping[str, str]
    ids: RequestIds
    started: float = field(default_factory=time.monotonic)
    code: str = "ok"
    prediction: RequestRecord | None = None

    @classmethod
    def of(cls, context: Context, method: str) -> "Rpc":
        sent = context.invocation_metadata() or ()
        headers = {name: value for name, value in sent if isinstance(value, str)}
        return cls(context, method, headers, RequestIds.of(headers))

    @property
    def client(self) -> str:
        """The address of the client, or of its proxy."""
        return _host(self.context.peer())

    def start_trace(self, tracing: "Tracing", started: float) -> "RequestTrace":
        """Begin the span of a request. A stream has several."""
        name = f"{SERVICE}/{self.method}"
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}
        trace = tracing.start(name, self.headers, attributes, started)
        if not self.ids.traceparent:
            self.ids.traceparent = trace.headers["traceparent"]
        return trace

    def log(self, status: int) -> None:
        path = f"/{SERVICE}/{self.method}"
        scope = {
            "client": (self.client,),
            "method": "GRPC",
            "path": path,
            "raw_path": path.encode(),
        }
        log_request(scope, status, self.started, self.ids, self.code, self.prediction)


@asynccontextmanager
async def answering(context: Context, method: str) -> AsyncIterator[Rpc]:
    """Log a call, and end it with the status of the error that its body raises."""
    rpc, report = Rpc.of(context, method), None
    try:
        yield rpc
    except asyncio.CancelledError:
        report = report_error(ClientDisconnectedError(), method)
        raise
    except Exception as error:  # noqa: BLE001  every error becomes a status
        report = report_error(error, method)
    finally:
        rpc.code = report.code if report else "ok"
        rpc.log(report.status if report else HTTPStatus.OK)
    trailing = ((REQUEST_ID, rpc.ids.request_id),)
    if report is None:
        context.set_trailing_metadata(trailing)
    else:
        await abort(context, report, trailing)


async def abort(
    context: Context, report: ErrorReport, trailing: tuple[tuple[str, str], ...] = ()
) -> None:
    headers = {name.lower(): value for name, value in report.headers.items()}
    kept = tuple((name, headers[name]) for name in _RETURNED_HEADERS if name in headers)
    await context.abort(
        _STATUSES.get(report.status, _OTHER_STATUS), error_message(report), (*trailing, *kept)
    )


def fill(message: M, document: Any) -> M:
    """Fill a message from a pydantic document with fields of the same names.

    Fields that the message lacks are always empty in the document.
    """
    ParseDict(document.model_dump(exclude_none=True), message, ignore_unknown_fields=True)
    return message


def _host(peer: str) -> str:
    """The address in `ipv4:127.0.0.1:1234` or `ipv6:%5B::1%5D:1234`."""
    address = peer.partition(":")[2].rpartition(":")[0]
    return address.removeprefix("%5B").removesuffix("%5D")
