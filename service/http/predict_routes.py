"""The paths of the prediction and embedding routes, and what the OpenAPI document says of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

Operation = Literal["predict", "embed"]
BINARY_MEDIA_TYPE: Final = "application/octet-stream"
EMBEDDING_DIMS_HEADER: Final = "embedding-dims"
"""Length of each embedding of a binary response."""


@dataclass(frozen=True)
class PredictRoute:
    """All routes use POST and share body and errors; those of one operation share the rest."""

    operation: Operation
    name: str
    path: str
    summary: str
    description: str


ROUTES: Final = (
    PredictRoute(
        "predict",
        "predict_default",
        "/v1/predict",
        "Classify with the default model",
        "Send an image as the body, several as files of a form, or base64 in JSON.",
    ),
    PredictRoute(
        "predict",
        "predict",
        "/v1/models/{model}/predict",
        "Classify with a model",
        "As `/v1/predict`, with the version that the model's `production` alias names.",
    ),
    PredictRoute(
        "predict",
        "predict_version",
        "/v1/models/{model}/versions/{version}/predict",
        "Classify with one version",
        "As `/v1/predict`, with this version only.",
    ),
    PredictRoute(
        "embed",
        "embed_default",
        "/v1/embed",
        "Embed with the default model",
        "Send images as to `/v1/predict`. Returns the pooled features before the last layer.",
    ),
    PredictRoute(
        "embed",
        "embed",
        "/v1/models/{model}/embed",
        "Embed with a model",
        "As `/v1/embed`, with the version that the model's `production` alias names.",
    ),
    PredictRoute(
        "embed",
        "embed_version",
        "/v1/models/{model}/versions/{version}/embed",
        "Embed with one version",
        "As `/v1/embed`, with this version only.",
    ),
)
ERROR_RESPONSES: Final[Mapping[int, str]] = {
    400: "No image, a damaged image, or an invalid request",
    401: "A key is required, and none or an unknown one was sent",
    403: "A key is required, and this one lacks the scope `predict`",
    404: "No such model or version is served",
    408: "The body arrived too slowly",
    413: "Too many bytes, images or pixels",
    415: "Unsupported media type, content coding or image format",
    429: "Overloaded, or too many requests; `Retry-After` says when to retry",
    500: "The model failed on this batch",
    502: "An image could not be fetched from its URL",
    503: "The model has no version that serves yet",
    504: "The deadline passed",
}
_PATTERNS: Final = [
    (re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", route.path) + "/?"), route.operation)
    for route in ROUTES
]


@lru_cache(maxsize=64)
def match_route(operation: Operation, path: str) -> Mapping[str, str] | None:
    """Return the path parameters, or None if the path is not a route of this operation."""
    for pattern, offered in _PATTERNS:
        if offered == operation and (match := pattern.fullmatch(path)):
            return match.groupdict()
    return None
