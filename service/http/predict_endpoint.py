"""The prediction routes, and the ASGI application that answers them.

It runs in front of FastAPI, whose middleware, routing and dependencies would take longer than all
other work on a small image. Requests to other routes are passed on to FastAPI.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError
from service.http.access_log import is_routine, log_request
from service.http.answer_headers import encode_headers, record_headers
from service.http.api_keys import ApiKeys
from service.http.asgi_replies import (
    allow_head,
    method_not_allowed,
    reply_with,
    request_line,
    to_api_scope,
)
from service.http.cors import allow_origins, is_cross_origin, is_preflight
from service.http.dialect import Dialect
from service.http.early_rejection import EarlyRejection
from service.http.metrics import ServiceMetrics
from service.http.problem_details import Reply, reply_to
from service.http.refusals import Refusals
from service.http.request_body import check_headers, content_length, read_body
from service.http.request_ids import RequestIds
from service.http.request_limits import MAX_UNREAD_BYTES
from service.http.request_tracing import describe_route, end_trace, start_trace
from service.http.uvicorn_adapter import DIRECT_TRANSPORT, DirectTransport
from service.key_file import scopes_of
from service.prediction.pipeline import PredictionPipeline
from service.prediction.request import RequestRecord
from service.public_address import parse_origins
from service.settings import Settings

if TYPE_CHECKING:
    from service.tracing import Tracing


class PredictEndpoint:
    """Answers predictions itself and passes everything else on to FastAPI.

    Every request gets an id and a line in the access log. Every prediction is counted.
    """

    def __init__(
        self,
        api: FastAPI,
        pipeline: PredictionPipeline,
        metrics: ServiceMetrics,
        keys: ApiKeys,
        settings: Settings,
        dialects: Sequence[Dialect],
        tracing: "Tracing | None" = None,
        refusals: Refusals | None = None,
    ) -> None:
        self.api = api
        self._pipeline = pipeline
        self._metrics = metrics
        self._keys = keys
        self._settings = settings
        self._dialects = dialects
        self._tracing = tracing
        origins = parse_origins(settings.cors_origins)
        self._cors = allow_origins(self._route, origins) if origins else None
        self._refusals = refusals
        self.early_rejection = EarlyRejection(
            dialects,
            pipeline,
            metrics,
            keys,
            root_path=settings.root_path,
            allows_origins=bool(origins),
            is_traced=tracing is not None,
            refusals=refusals,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.api(scope, receive, send)
        elif self._refusals and (error := self._refusals.find(scope)):
            await self._pass_on(self._refuse(error, scope), scope, receive, send)
        elif self._cors is None or not is_cross_origin(scope):
            await self._route(scope, receive, send)
        elif is_preflight(scope):
            await self._pass_on(self._cors, scope, receive, send)
        else:
            scope.pop(DIRECT_TRANSPORT, None)  # it would send no headers of CORS
            await self._cors(scope, receive, send)

    def _refuse(self, error: ServiceError, scope: Scope) -> ASGIApp:
        error.headers["Connection"] = "close"  # the client could otherwise keep sending its body
        path = self._path_below_root(scope)
        dialects = (each.reply_to for each in self._dialects if each.match(path) is not None)
        return reply_with(error, next(dialects, reply_to))

    def _path_below_root(self, scope: Scope) -> str:
        path: str = scope["path"]
        root = self._settings.root_path
        if root and (path == root or path.startswith(f"{root}/")):
            return path.removeprefix(root)
        return path

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._path_below_root(scope)
        for dialect in self._dialects:
            if (path_params := dialect.match(path)) is None:
                continue
            if scope["method"] in dialect.methods:
                await self._answer(dialect, path_params, scope, receive, send)
            else:
                await self._pass_on(method_not_allowed(dialect), scope, receive, send)
            return
        api_scope = to_api_scope(scope, self._settings.root_path, path)
        await self._pass_on(self.api, scope, receive, send, api_scope)

    @property
    def requires_key(self) -> bool:
        """Whether predictions need a key now."""
        return "predict" in scopes_of(self._keys.keys)

    def stop(self) -> None:
        """Stop loading versions and report not ready, before the process ends."""
        self._pipeline.registry.stop()

    async def _answer(
        self,
        dialect: Dialect,
        path_params: Mapping[str, str],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        record, headers = RequestRecord(), _decode_headers(scope)
        # Removed from the scope, to which it refers: together they would be a reference cycle.
        direct: DirectTransport | None = scope.pop(DIRECT_TRANSPORT, None)
        ids = RequestIds.of(headers)
        if self._tracing:
            route = describe_route(scope["path"], path_params)
            record.trace = start_trace(self._tracing, scope, headers, ids, record.started, route)
        try:
            reply = await self._predict(
                dialect, path_params, headers, scope["query_string"], receive, direct, record
            )
        except Exception as error:  # noqa: BLE001  every error becomes a response
            record.set_error(error)
            reply = dialect.reply_to(error, request_line(scope))
        response_headers = [
            *encode_headers(reply),
            *record_headers(record, time.monotonic() - record.started),
            *ids.headers,
        ]
        try:
            if "receive" not in record.seconds and _may_have_unread_body(headers):
                # Otherwise the client could keep sending the unread body.
                response_headers.append((b"connection", b"close"))
            elif direct and direct.answer(reply.status, response_headers, reply.body):
                return
            await send(
                {"type": "http.response.start", "status": reply.status, "headers": response_headers}
            )
            await send({"type": "http.response.body", "body": reply.body})
        finally:
            self._metrics.observe(record, reply.code)
            log_request(scope, reply.status, record.started, ids, reply.code, record)
            if record.trace:
                end_trace(record.trace, reply.status, reply.code, record)

    async def _predict(
        self,
        dialect: Dialect,
        path_params: Mapping[str, str],
        headers: Mapping[str, str],
        query_string: bytes,
        receive: Receive,
        direct: DirectTransport | None,
        record: RequestRecord,
    ) -> Reply:
        self._keys.check(headers.get("authorization"), "predict")
        target = dialect.target(path_params, query_string)
        number = target.version
        if target.alias is not None:
            number = await self._pipeline.find_alias(target.model, target.alias)
        with self._pipeline.lease(target.model, number) as loaded:
            version = loaded.version
            record.model, record.version, record.digest = (
                version.model,
                version.number,
                version.digest,
            )
            call = dialect.start(loaded, headers, query_string, record)
            check_headers(headers, self._settings.max_body_bytes)
            self._pipeline.check_queue(loaded, call.priority)
            with self._pipeline.uploads.upload() as reserve:
                body = await self._read_body(receive, direct, reserve)
                # After the body, the next ASGI message can only be a disconnect.
                disconnected = direct.disconnected if direct else asyncio.ensure_future(receive())
                try:
                    request = await call.read(body, reserve)
                    await self._pipeline.fetch(loaded, request, record, reserve, disconnected)
                    record.seconds["receive"] = time.monotonic() - record.started
                    outcomes = await self._pipeline.predict(loaded, request, record, disconnected)
                finally:
                    if not direct:
                        disconnected.cancel()
            return await call.write(request, outcomes)

    async def _read_body(
        self, receive: Receive, direct: DirectTransport | None, reserve: Callable[[int], None]
    ) -> bytes:
        settings = self._settings
        body = direct.take_body(settings.max_body_bytes) if direct else None
        if body is None:
            return await read_body(
                receive, settings.max_body_bytes, settings.body_timeout_seconds, reserve
            )
        reserve(len(body))
        return body

    async def _pass_on(
        self,
        app: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
        app_scope: Scope | None = None,
    ) -> None:
        headers = _decode_headers(scope)
        started, ids, status = time.monotonic(), RequestIds.of(headers), 0
        trace = None
        if self._tracing and not is_routine(scope["path"]):
            trace = start_trace(self._tracing, scope, headers, ids, started)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = message["headers"]
                if status == HTTPStatus.METHOD_NOT_ALLOWED:
                    sent = allow_head(sent)
                message["headers"] = [*sent, *ids.headers]
            await send(message)

        try:
            await app(app_scope or scope, receive, send_with_id)
        finally:
            log_request(scope, status, started, ids)
            if trace:
                end_trace(trace, status)


def _decode_headers(scope: Scope) -> dict[str, str]:
    """Headers by lower-case name. If a header is repeated, the first one counts."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in reversed(scope["headers"])
    }


def _may_have_unread_body(headers: Mapping[str, str]) -> bool:
    return "transfer-encoding" in headers or content_length(headers) > MAX_UNREAD_BYTES
