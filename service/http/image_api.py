"""The image API: prediction requests under `/v1`, with images as the body and JSON responses."""

import asyncio
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Generic

from service.engine.loaded_version import LoadedVersion
from service.errors import BadRequestError
from service.http.dialect import Call, VersionTarget, path_target
from service.http.predict_routes import match_route
from service.http.problem_details import Reply, reply_to
from service.http.query_params import (
    EmbedParams,
    Params,
    QueryParams,
    find_coverage_index,
    parse_query_params,
)
from service.http.request_body import BodyLimits, parse_body
from service.http.response_formats import FORMATS, choose_format
from service.prediction.explanation import explain_all
from service.prediction.request import ImageOutcome, PredictRequest, RequestRecord
from service.prediction.response import encode_response

MAX_EXPLANATIONS: Final = 1000
"""Most labels of all images of a request that are explained."""
EXPLANATIONS_IN_EVENT_LOOP: Final = 10
"""Up to 10 labels take less than 1 ms. Passing them to a thread takes as long as two labels."""


def require_embedding(loaded: LoadedVersion) -> None:
    """Raise BadRequestError if the version has no embedding."""
    if loaded.embedding_dims is None:
        raise BadRequestError(
            f"{loaded.version} has no embedding. Choose a model whose details "
            "(`GET /v1/models/MODEL`) state `embedding_dims`, or publish it again with "
            "`resident add-embedding`",
            code="no_embedding",
        )


class ImageApiCall(Call, Generic[Params]):
    """One request with images as its body."""

    def __init__(
        self,
        loaded: LoadedVersion,
        headers: Mapping[str, str],
        query: Params,
        record: RequestRecord,
        limits: BodyLimits,
    ) -> None:
        self._loaded, self._headers, self._query = loaded, headers, query
        self._record, self._limits = record, limits
        self.priority = query.priority
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise BadRequestError if the version lacks what the query asks for."""

    @property
    def timeout_seconds(self) -> float:
        milliseconds = self._query.timeout_ms
        return math.inf if milliseconds is None else milliseconds / 1e3


class PredictCall(ImageApiCall[QueryParams]):
    """One prediction request."""

    def check(self) -> None:
        loaded, query = self._loaded, self._query
        self._coverage_index = None
        if query.coverage is not None:
            offered = list(loaded.calibration.conformal_thresholds)
            self._coverage_index = find_coverage_index(query.coverage, offered, str(loaded.version))
        if query.embedding:
            require_embedding(loaded)
        if query.explain and not loaded.can_explain:
            raise BadRequestError(
                f"{loaded.version} cannot be explained: omit `explain`, or choose a model whose "
                "details (`GET /v1/models/MODEL`) state `can_explain`",
                code="no_explanation",
            )

    async def read(self, body: bytes, reserve: Callable[[int], None]) -> PredictRequest:
        query = self._query
        parsed = await parse_body(self._headers, body, self._limits, reserve)
        if query.explain:
            self._check_explanations(len(parsed.images))
        return PredictRequest(
            parsed.images,
            query.top_k,
            self._coverage_index,
            self.timeout_seconds,
            query.priority,
            parsed.names,
            query.embedding,
            query.explain,
        )

    def _check_explanations(self, images: int) -> None:
        labels = min(self._query.top_k, len(self._loaded.version.manifest.class_names))
        if images * labels > MAX_EXPLANATIONS:
            raise BadRequestError(
                f"a request can explain at most {MAX_EXPLANATIONS:,} labels, and {images} images "
                f"with {labels} labels each are more; lower `top_k` or send fewer images",
                code="invalid_parameter",
            )

    async def write(self, request: PredictRequest, outcomes: Sequence[ImageOutcome]) -> Reply:
        class_names = self._loaded.version.manifest.class_names
        media_type = choose_format(self._headers.get("accept", ""))
        explanations = None
        if request.explain:
            explanations = await self._explain(request, outcomes)
        body = await encode_response(
            outcomes, request, self._record, class_names, FORMATS[media_type], explanations
        )
        return Reply(HTTPStatus.OK, body, media_type=media_type)

    async def _explain(
        self, request: PredictRequest, outcomes: Sequence[ImageOutcome]
    ) -> list[dict[str, Any] | None]:
        if len(outcomes) * request.top_k <= EXPLANATIONS_IN_EVENT_LOOP:
            return explain_all(self._loaded, request, outcomes)
        return await asyncio.to_thread(explain_all, self._loaded, request, outcomes)


class ImageApi:
    """The dialect of `/v1/predict` and the routes like it."""

    methods: Sequence[str] = ("POST",)
    match = staticmethod(partial(match_route, "predict"))
    reply_to = staticmethod(reply_to)
    params: type[EmbedParams] = QueryParams
    call: type[ImageApiCall[Any]] = PredictCall

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits

    def target(self, path_params: Mapping[str, str], query_string: bytes) -> VersionTarget:
        """Return the model and version of a request.

        Raises:
            BadRequestError: A version is invalid, or more than one is named.
        """
        target = path_target(path_params)
        if not query_string:
            return target
        query = parse_query_params(query_string, self.params)
        if sum(named is not None for named in (target.version, query.version, query.alias)) > 1:
            raise BadRequestError(
                "name only one version: in the path, or as `version` or `alias` in the query",
                code="invalid_parameter",
            )
        return VersionTarget(target.model, target.version or query.version, query.alias)

    def start(
        self,
        loaded: LoadedVersion,
        headers: Mapping[str, str],
        query_string: bytes,
        record: RequestRecord,
    ) -> Call:
        query = parse_query_params(query_string, self.params)
        return self.call(loaded, headers, query, record, self._limits)
