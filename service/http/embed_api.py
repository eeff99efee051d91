"""The embedding routes: images as for predictions, and their pooled features as the response."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus

from service.engine.loaded_version import LoadedVersion
from service.http.dialect import Call
from service.http.image_api import ImageApi, require_embedding
from service.http.predict_routes import BINARY_MEDIA_TYPE, EMBEDDING_DIMS_HEADER, match_route
from service.http.problem_details import Reply
from service.http.query_params import EmbedParams, parse_query_params
from service.http.request_body import BodyLimits, parse_body
from service.prediction.embedding_response import encode_embeddings, pack_embeddings
from service.prediction.request import ImageOutcome, PredictRequest, RequestRecord


class EmbedApi(ImageApi):
    """The dialect of `/v1/embed` and the routes like it."""

    match = staticmethod(partial(match_route, "embed"))
    params = EmbedParams

    def start(
        self,
        loaded: LoadedVersion,
        headers: Mapping[str, str],
        query_string: bytes,
        record: RequestRecord,
    ) -> Call:
        return EmbedCall(loaded, headers, query_string, record, self._limits)


class EmbedCall:
    """One request for embeddings."""

    def __init__(
        self,
        loaded: LoadedVersion,
        headers: Mapping[str, str],
        query_string: bytes,
        record: RequestRecord,
        limits: BodyLimits,
    ) -> None:
        self._loaded, self._headers, self._record = loaded, headers, record
        self._limits = limits
        self._query = parse_query_params(query_string, EmbedParams)
        self.priority = self._query.priority
        require_embedding(loaded)

    async def read(self, body: bytes, reserve: Callable[[int], None]) -> PredictRequest:
        query = self._query
        parsed = await parse_body(self._headers, body, self._limits, reserve)
        return PredictRequest(
            parsed.images,
            timeout_seconds=math.inf if query.timeout_ms is None else query.timeout_ms / 1e3,
            priority=query.priority,
            names=parsed.names,
            embedding=True,
        )

    async def write(self, request: PredictRequest, outcomes: Sequence[ImageOutcome]) -> Reply:
        if not accepts_binary(self._headers.get("accept", "")):
            return Reply(HTTPStatus.OK, await encode_embeddings(outcomes, request, self._record))
        dims = {EMBEDDING_DIMS_HEADER: str(self._loaded.embedding_dims)}
        return Reply(HTTPStatus.OK, pack_embeddings(outcomes), dims, BINARY_MEDIA_TYPE)


def accepts_binary(accept: str) -> bool:
    """Whether an `Accept` header names BINARY_MEDIA_TYPE."""
    return any(
        entry.partition(";")[0].strip().lower() == BINARY_MEDIA_TYPE for entry in accept.split(",")
    )
