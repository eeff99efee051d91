"""TorchServe's inference API: images to `/predictions/{model}`, answers as `{label: probability}`.

Source: https://pytorch.org/serve/inference_api.html, and the default handler `image_classifier`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import orjson

from service.engine.loaded_version import LoadedVersion
from service.engine.priority import INTERACTIVE, Priority
from service.engine.queued_image import ImageResult
from service.errors import MAX_DETAIL_LENGTH, BadRequestError, shorten
from service.http.dialect import VersionTarget, path_target
from service.http.problem_details import CLIENT_CLOSED_REQUEST, Reply, report_error
from service.http.request_body import BodyLimits, parse_body
from service.prediction.request import ImageOutcome, PredictRequest, RequestRecord

TOP_K: Final = 5
_ROUTE: Final = re.compile(r"/predictions/(?P<model>[^/]+)(?:/(?P<version>[^/]+))?/?")
_TYPES_BY_CODE: Final = {
    "model_not_found": "ModelNotFoundException",
    "version_not_found": "ModelVersionNotFoundException",
}
_TYPES_BY_STATUS: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "InvalidKeyException",
    HTTPStatus.FORBIDDEN: "InvalidKeyException",
    HTTPStatus.NOT_FOUND: "ResourceNotFoundException",
    HTTPStatus.METHOD_NOT_ALLOWED: "MethodNotAllowedException",
    HTTPStatus.CONFLICT: "ConflictStatusException",
    HTTPStatus.TOO_MANY_REQUESTS: "ServiceUnavailableException",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailableException",
}


def without_fraction(version: str) -> str:
    """Return `1` for `1.0`, as TorchServe writes the version of most models."""
    return version.removesuffix(".0")


def error_reply(error: Exception, request_line: str) -> Reply:
    """Turn any error into TorchServe's error object. The arguments are those of `report_error`."""
    report = report_error(error, request_line)
    if report.status == CLIENT_CLOSED_REQUEST:
        return Reply(report.status, b"", code=report.code)
    others = (
        "BadRequestException"
        if report.status < HTTPStatus.INTERNAL_SERVER_ERROR
        else "InternalServerException"
    )
    kind = _TYPES_BY_CODE.get(report.code) or _TYPES_BY_STATUS.get(report.status, others)
    document = {
        "code": int(report.status),
        "type": kind,
        "message": shorten(report.detail, MAX_DETAIL_LENGTH),
    }
    return Reply(report.status, orjson.dumps(document), report.headers, code=report.code)


class TorchServeApi:
    """The dialect of `/predictions/{model}`, with and without a version."""

    methods: Sequence[str] = ("POST", "PUT")  # `curl -T`, as in TorchServe's own examples, uses PUT
    reply_to = staticmethod(error_reply)

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits

    @staticmethod
    @lru_cache(maxsize=64)
    def match(path: str) -> Mapping[str, str] | None:
        """Return the path parameters, or None if the path is not a prediction route."""
        match = _ROUTE.fullmatch(path)
        return match and {name: value for name, value in match.groupdict().items() if value}

    def target(
        self,
        path_params: Mapping[str, str],
        query_string: bytes,  # noqa: ARG002  for handlers, which do not exist here
    ) -> VersionTarget:
        """Return the model and version of a request. Raises BadRequestError."""
        if version := path_params.get("version"):
            path_params = {**path_params, "version": without_fraction(version)}
        return path_target(path_params)

    def start(
        self,
        loaded: LoadedVersion,
        headers: Mapping[str, str],
        query_string: bytes,  # noqa: ARG002  as in `target`
        record: RequestRecord,  # noqa: ARG002  responses have no times
    ) -> "TorchServeCall":
        return TorchServeCall(loaded, headers, self._limits)


class TorchServeCall:
    """One prediction of one image."""

    __slots__ = ("_headers", "_limits", "_loaded")
    priority: Priority = INTERACTIVE

    def __init__(
        self, loaded: LoadedVersion, headers: Mapping[str, str], limits: BodyLimits
    ) -> None:
        self._loaded, self._headers, self._limits = loaded, headers, limits

    async def read(self, body: bytes, reserve: Callable[[int], None]) -> PredictRequest:
        parsed = await parse_body(self._headers, body, self._limits, reserve)
        if len(parsed.images) > 1:
            raise BadRequestError(
                f"a request has one image, as in TorchServe, got {len(parsed.images)}; "
                "/v1/models/{model}/predict takes several",
                code="invalid_parameter",
            )
        return PredictRequest(parsed.images, TOP_K)

    async def write(self, request: PredictRequest, outcomes: Sequence[ImageOutcome]) -> Reply:
        (outcome,) = outcomes
        if not isinstance(outcome.result, ImageResult):
            raise outcome.result
        names = self._loaded.version.manifest.class_names
        row = outcome.result.row
        best = zip(row.indices[: request.top_k], row.scores[: request.top_k], strict=True)
        return Reply(
            HTTPStatus.OK,
            orjson.dumps({names[index]: float(score) for index, score in best}),
        )
