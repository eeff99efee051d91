"""The ASGI application: prediction requests go straight to the predictor, all others through FastAPI.

FastAPI's middleware, routing and dependencies cost more than everything that we do for a small image; they stay for the other
routes, and for the document of all. Every request gets its id, its log line, and every prediction is counted.
"""

import re
import time
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from model_store.errors import InvalidNameError
from model_store.names import parse_version
from service.errors import BadRequestError
from service.http.access_log import REQUEST_ID, RequestLog, request_id
from service.http.api_keys import ApiKeys
from service.http.metrics import ServiceMetrics
from service.http.problem_details import Reply, reply_to
from service.http.protocol import DIRECT_TRANSPORT, DirectTransport
from service.prediction.pipeline import PredictionPipeline, PredictRequest, RequestRecord

LONG_BODY_BYTES: Final = 64 * 1024
_PREDICT: Final = re.compile(r"/v1/(?:models/([^/]+)/(?:versions/([^/]+)/)?)?predict")


class Application(FastAPI):
    """FastAPI with a short way for predictions."""

    def __init__(
        self, predictor: PredictionPipeline, metrics: ServiceMetrics, keys: ApiKeys, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._predictor = predictor
        self._metrics = metrics
        self._keys = keys
        self._log = RequestLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif scope["method"] == "POST" and (found := _PREDICT.fullmatch(scope["path"])):
            await self._predict(scope, receive, send, *found.groups())
        else:
            await self._ask_fastapi(scope, receive, send)

    async def _predict(
        self, scope: Scope, receive: Receive, send: Send, model: str | None, version: str | None
    ) -> None:
        seen, headers = RequestRecord(), _decode(scope)
        exchange: DirectTransport | None = scope.pop(
            DIRECT_TRANSPORT, None
        )  # it knows the scope: a cycle, which only the collector would end
        asked = PredictRequest(headers, scope["query_string"], receive, exchange)
        try:
            self._keys.check(headers.get("authorization"), "predict")
            body, own_headers = await self._predictor.predict(
                asked, model, _canonical(version), seen
            )
            reply = Reply(200, body, own_headers)
        except Exception as error:  # noqa: BLE001  whatever it is, it has one reply
            reply = reply_to(error, f"POST {scope['raw_path'].decode('ascii', 'backslashreplace')}")
        identity = request_id(scope)
        answered = [*_encode(reply), (REQUEST_ID, identity)]
        try:
            if "receive" not in seen.seconds and _has_long_body(headers):
                answered.append(
                    (b"connection", b"close")
                )  # or the client goes on sending, as slowly as it likes
            elif exchange and exchange.answer(reply.status, answered, reply.body):
                return
            await send({"type": "http.response.start", "status": reply.status, "headers": answered})
            await send({"type": "http.response.body", "body": reply.body})
        finally:
            self._metrics.observe(seen, reply.code)
            self._log.add(
                scope,
                reply.status,
                seen.began,
                identity,
                f" {reply.code} {seen.model}/{seen.version} images={seen.images}",
            )

    async def _ask_fastapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, identity, status = time.monotonic(), request_id(scope), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID, identity)]
            await send(message)

        try:
            await super().__call__(scope, receive, send_on)
        finally:
            self._log.add(scope, status, began, identity)


def _decode(scope: Scope) -> dict[str, str]:
    """A request's headers by name; of several of one name the first."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in reversed(scope["headers"])
    }


def _has_long_body(headers: Mapping[str, str]) -> bool:
    """Whether a request's body may be more than what came with its head."""
    length = headers.get("content-length", "0")
    return "transfer-encoding" in headers or not length.isdecimal() or int(length) > LONG_BODY_BYTES


def _encode(reply: Reply) -> list[tuple[bytes, bytes]]:
    headers = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()
    ]
    return [
        (b"content-type", reply.media_type.encode()),
        (b"content-length", b"%d" % len(reply.body)),
        *headers,
    ]


def _canonical(version: str | None) -> int | None:
    try:
        return None if version is None else parse_version(version)
    except InvalidNameError as error:
        raise BadRequestError(f"path.version: {error}", code="invalid_parameter") from None
