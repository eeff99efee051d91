"""The paths of the prediction and embedding routes, and what the OpenAPI document says of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from service.http.error_responses import INFERENCE_ERRORS

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
_IMAGE_API_ERRORS: Final = (
    *INFERENCE_ERRORS,
    *("no_default_model", "alias_not_found", "empty_body", "no_images", "no_image_classified"),
    *("malformed_multipart", "malformed_zip", "unsupported_media_type"),
    *("url_not_allowed", "fetch_failed", "no_embedding"),
)
PREDICT_ERRORS: Final = (*_IMAGE_API_ERRORS, "no_label_sets", "no_explanation")
EMBED_ERRORS: Final = _IMAGE_API_ERRORS
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
