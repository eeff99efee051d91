"""Rejects predictions while the queue of their model is full, before any other work on them.

Under overload, most requests are rejected, and rejecting them takes CPU time from the others. So
the response is built in advance, and the request is not decoded and gets no task of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from starlette.types import Scope

from service.engine.loaded_version import LoadedVersion
from service.errors import OverloadedError, ServiceError
from service.http.access_log import leaves_out
from service.http.answer_headers import encode_headers, record_headers
from service.http.api_keys import ApiKeys
from service.http.cors import is_cross_origin
from service.http.dialect import Dialect, VersionTarget
from service.http.metrics import ServiceMetrics
from service.http.problem_details import Reply
from service.http.refusals import Refusals
from service.http.request_ids import RequestIds
from service.http.request_limits import MAX_UNREAD_BYTES
from service.http.uvicorn_adapter import DirectTransport
from service.prediction.pipeline import PredictionPipeline
from service.prediction.request import RequestRecord

REUSE_SECONDS: Final = 0.1
"""How long a response is reused. Its `Retry-After` would be outdated after that."""
MAX_REJECTIONS: Final = 256


@dataclass(slots=True)  # not frozen: that would double the time to create one
class _Rejection:
    error: OverloadedError
    reply: Reply
    headers: list[tuple[bytes, bytes]]
    expires: float


class EarlyRejection:
    """Rejects some of the requests that `PredictEndpoint` would reject, and leaves the rest to it.

    The rest are requests that need an API key, CORS headers, a span or a line in the access log,
    name an alias, fail for another reason, or have a body that is too long to drop.
    """

    def __init__(
        self,
        dialects: Sequence[Dialect],
        pipeline: PredictionPipeline,
        metrics: ServiceMetrics,
        keys: ApiKeys,
        *,
        root_path: str = "",
        allows_origins: bool = False,
        is_traced: bool = False,
        refusals: Refusals | None = None,
    ) -> None:
        self._dialects = dialects
        self._pipeline = pipeline
        self._metrics = metrics
        self._keys = keys
        self._root_path = root_path
        self._allows_origins = allows_origins
        self._is_traced = is_traced
        self._refusals = refusals
        self._find_target = lru_cache(maxsize=64)(self._find_target_of)
        self._rejections: dict[tuple[Dialect, str], _Rejection] = {}

    def answer(self, scope: Scope, direct: DirectTransport) -> bool:
        """Reject a request if its queue is full. If this returns False, nothing was sent."""
        found = self._find_target(scope["method"], scope["path"], scope["query_string"])
        if found is None:
            return False
        dialect, target = found
        loaded = self._pipeline.find_full(target.model, target.version)
        if loaded is None or self._keys.are_needed("predict"):
            return False
        if self._is_traced or (self._allows_origins and is_cross_origin(scope)):
            return False
        if self._refusals and self._refusals.may_refuse(scope):
            return False
        headers = dict(reversed(scope["headers"]))  # if one is repeated, the first one counts
        length = int(headers.get(b"content-length", b"0"))
        if length > MAX_UNREAD_BYTES or b"transfer-encoding" in headers or not leaves_out():
            return False
        version = loaded.version
        record = RequestRecord(model=version.model, version=version.number, digest=version.digest)
        rejection = self._rejections.get((dialect, version.digest))
        if rejection is None or record.started > rejection.expires:
            rejection = self._build(dialect, loaded, record)
        record.set_error(rejection.error)
        reply, ids = rejection.reply, RequestIds.of_encoded(headers)
        if not direct.answer(reply.status, [*rejection.headers, *ids.headers], reply.body):
            return False
        self._metrics.observe(record, reply.code)
        return True

    def _build(self, dialect: Dialect, loaded: LoadedVersion, record: RequestRecord) -> _Rejection:
        error = self._pipeline.queue_full_error(loaded)
        reply = dialect.reply_to(error, "")
        headers = [*encode_headers(reply), *record_headers(record, 0.0)]
        rejection = _Rejection(error, reply, headers, record.started + REUSE_SECONDS)
        if len(self._rejections) >= MAX_REJECTIONS:
            self._rejections.clear()
        self._rejections[dialect, loaded.version.digest] = rejection
        return rejection

    def _find_target_of(
        self, method: str, path: str, query_string: bytes
    ) -> tuple[Dialect, VersionTarget] | None:
        """The dialect and the target of a prediction that names no alias; None for all others."""
        path = path.removeprefix(self._root_path)
        for dialect in self._dialects:
            if method in dialect.methods and (path_params := dialect.match(path)) is not None:
                try:
                    target = dialect.target(path_params, query_string)
                except ServiceError:
                    return None
                return (dialect, target) if target.alias is None else None
        return None
