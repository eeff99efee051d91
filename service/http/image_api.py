"""The image API: prediction requests under `/v1`, with images as the body and JSON responses."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus

from service.engine.loaded_version import LoadedVersion
from service.errors import BadRequestError
from service.http.dialect import Call, VersionTarget, path_target
from service.http.predict_routes import match_route
from service.http.problem_details import Reply, reply_to
from service.http.query_params import (
    EmbedParams,
    QueryParams,
    find_coverage_index,
    parse_query_params,
)
from service.http.request_body import BodyLimits, parse_body
from service.http.response_formats import FORMATS, choose_format
from service.prediction.explanation import explain_all
from service.prediction.request import ImageOutcome, PredictRequest, RequestRecord
from service.prediction.response import encode_response


def require_embedding(loaded: LoadedVersion) -> None:
    """Raise BadRequestError if the version has no embedding."""
    if loaded.embedding_dims is None:
        raise BadRequestError(
            f"{loaded.version} has no embedding. Choose a model whose details "
            "(`GET /v1/models/MODEL`) state `embedding_dims`, or publish it again with "
            "`resident add-embedding`",
            code="no_embedding",
        )


class ImageApi:
    """The dialect of `/v1/predict` and the routes like it."""

    methods: Sequence[str] = ("POST",)
    match = staticmethod(partial(match_route, "predict"))
    reply_to = staticmethod(reply_to)
    params: type[EmbedParams] = QueryParams

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
        return ImageCall(loaded, headers, query_string, record, self._limits)


class ImageCall:
    """One request of the image API."""

    __slots__ = (
        "_coverage_index",
        "_headers",
        "_limits",
        "_loaded",
        "_query",
        "_record",
        "priority",
    )

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
        self._query = parse_query_params(query_string, QueryParams)
        self._coverage_index = None
        if self._query.coverage is not None:
            offered = list(loaded.calibration.conformal_thresholds)
            self._coverage_index = find_coverage_index(
                self._query.coverage, offered, str(loaded.version)
            )
        if self._query.embedding:
            require_embedding(loaded)
        if self._query.explain and not loaded.can_explain:
            raise BadRequestError(
                f"{loaded.version} cannot be explained: omit `explain`, or choose a model whose "
                "details (`GET /v1/models/MODEL`) state `can_explain`",
                code="no_explanation",
            )
        self.priority = self._query.priority

    async def read(self, body: bytes, reserve: Callable[[int], None]) -> PredictRequest:
        query = self._query
        parsed = await parse_body(self._headers, body, self._limits, reserve)
        return PredictRequest(
            parsed.images,
            query.top_k,
            self._coverage_index,
            math.inf if query.timeout_ms is None else query.timeout_ms / 1e3,
            query.priority,
            parsed.names,
            query.embedding,
            query.explain,
        )

    async def write(self, request: PredictRequest, outcomes: Sequence[ImageOutcome]) -> Reply:
        class_names = self._loaded.version.manifest.class_names
        media_type = choose_format(self._headers.get("accept", ""))
        explanations = None
        if request.explain:
            explanations = await asyncio.to_thread(explain_all, self._loaded, request, outcomes)
        body = await encode_response(
            outcomes, request, self._record, class_names, FORMATS[media_type], explanations
        )
        return Reply(HTTPStatus.OK, body, media_type=media_type)
