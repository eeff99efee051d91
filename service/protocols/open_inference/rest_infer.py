"""The dialect of the inference routes, for `service.http.predict_endpoint`."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from service.engine.loaded_version import LoadedVersion
from service.engine.priority import INTERACTIVE, Priority
from service.http.dialect import path_target
from service.http.problem_details import Reply
from service.http.request_body import INLINE_BYTES
from service.prediction.request import ImageOutcome, PredictRequest, RequestRecord
from service.protocols.open_inference.errors import error_reply
from service.protocols.open_inference.infer_request import InferRequest
from service.protocols.open_inference.outputs import read_results
from service.protocols.open_inference.rest_request import (
    json_length,
    read_infer_request,
)
from service.protocols.open_inference.rest_response import encode_infer_response

INFER_PATHS: Final = {
    "/v2/models/{model}/infer": ("infer", "Infer with a model"),
    "/v2/models/{model}/versions/{version}/infer": ("infer_version", "Infer with one version"),
}
"""By path: the id and the summary of the operation."""
_ROUTE: Final = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer/?")


@lru_cache(maxsize=64)
def match_infer_route(path: str) -> Mapping[str, str] | None:
    """Return the path parameters, or None if the path is not an inference route."""
    match = _ROUTE.fullmatch(path)
    return match and {name: value for name, value in match.groupdict().items() if value}


class OpenInferenceApi:
    """The dialect of `/v2/models/{model}/infer`, with and without a version."""

    methods: Sequence[str] = ("POST",)
    match = staticmethod(match_infer_route)
    target = staticmethod(path_target)
    reply_to = staticmethod(error_reply)

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images

    def start(
        self,
        loaded: LoadedVersion,
        headers: Mapping[str, str],
        query_string: bytes,  # noqa: ARG002  the protocol has no query
        record: RequestRecord,  # noqa: ARG002  responses have no times
    ) -> "InferCall":
        return InferCall(loaded, headers, self._max_images)


class InferCall:
    """One inference request."""

    __slots__ = ("_headers", "_infer", "_loaded", "_max_images")
    priority: Priority = INTERACTIVE  # the real one is in the body

    def __init__(self, loaded: LoadedVersion, headers: Mapping[str, str], max_images: int) -> None:
        self._loaded, self._headers, self._max_images = loaded, headers, max_images

    async def read(self, body: bytes, _: Callable[[int], None]) -> PredictRequest:
        arguments = (self._headers, body, self._loaded, self._max_images)
        self._infer: InferRequest = (
            await asyncio.to_thread(read_infer_request, *arguments)
            if json_length(self._headers, len(body)) > INLINE_BYTES
            else read_infer_request(*arguments)
        )
        return self._infer.to_predict_request()

    async def write(
        self,
        request: PredictRequest,  # noqa: ARG002  the parsed body has more
        outcomes: Sequence[ImageOutcome],
    ) -> Reply:
        return await encode_infer_response(self._infer, read_results(outcomes), self._loaded)
