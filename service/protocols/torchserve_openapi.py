"""What the OpenAPI document says about TorchServe's prediction routes."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from service.http.error_responses import INFERENCE_ERRORS, ErrorResponses, describe_errors
from service.http.openapi_operation import DialectOperation
from service.http.request_body import FIELD
from service.protocols.torchserve import error_reply
from service.protocols.torchserve_schemas import TorchServeError, TorchServeVersion

TORCHSERVE_SCHEMAS: Final[Mapping[type[BaseModel], JsonSchemaMode]] = {
    TorchServeError: "serialization",
}
PREDICTION_PATHS: Final = {
    "/predictions/{model}": ("torchserve_predict", "Classify an image with a model"),
    "/predictions/{model}/{version}": (
        "torchserve_predict_version",
        "Classify an image with one version",
    ),
}
_DESCRIPTION: Final = (
    "TorchServe's `image_classifier`: one image, as the body or in a form. Returns the five most "
    "probable labels with their probabilities."
)
_ERRORS: Final = (
    *INFERENCE_ERRORS,
    *("empty_body", "no_images", "malformed_multipart", "malformed_zip", "url_not_allowed"),
    *("unsupported_media_type", "fetch_failed"),
)
_PROBABILITIES: Final = {
    "type": "object",
    "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1},
}


def describe_torchserve_errors(*codes: str) -> ErrorResponses:
    """The error responses of an operation, in TorchServe's form."""
    return describe_errors(*codes, reply=error_reply, schema=TorchServeError.__name__)


def describe_prediction_routes(body: Mapping[str, Any]) -> list[DialectOperation]:
    """The operations; PUT is what `curl -T` uses.

    Args:
        body: What the body of a prediction request of the image API contains, by media type.
    """
    return [
        DialectOperation(
            path=path,
            name=operation if method == "post" else f"{operation}_{method}",
            tag="torchserve",
            summary=summary,
            description=_DESCRIPTION,
            path_params={"version": TorchServeVersion},
            body={name: _one_image(content) for name, content in body.items()},
            success="Probabilities by label",
            answer={"application/json": {"schema": _PROBABILITIES}},
            errors=describe_torchserve_errors(*_ERRORS),
            method=method,
        )
        for path, (operation, summary) in PREDICTION_PATHS.items()
        for method in ("post", "put")
    ]


def _one_image(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same body with at most one image."""
    schema, one = content["schema"], {"maxItems": 1}
    if "$ref" in schema:
        return {**content, "schema": {"allOf": [schema, {"properties": {FIELD: one}}]}}
    if FIELD in (properties := schema.get("properties", {})):
        properties = {**properties, FIELD: {**properties[FIELD], **one}}
        return {**content, "schema": {**schema, "properties": properties}}
    return dict(content)
