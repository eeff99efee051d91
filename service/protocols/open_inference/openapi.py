"""What the OpenAPI document says about the inference routes."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from service.protocols.open_inference.rest_infer import INFER_PATHS
from service.protocols.open_inference.schemas import InferAnswer, InferBody, OpenInferenceError

INFER_SCHEMAS: Final[Mapping[type[BaseModel], JsonSchemaMode]] = {
    InferBody: "validation",
    InferAnswer: "serialization",
    OpenInferenceError: "serialization",
}
INFERENCE_ERRORS: Final = {
    400: "A malformed request, or a damaged image",
    401: "A key is required, and none or an unknown one was sent",
    403: "A key is required, and this one lacks the scope `predict`",
    404: "No such model or version is served",
    408: "The body arrived too slowly",
    413: "Too many bytes, images or pixels",
    415: "Unsupported content coding or image format",
    429: "Overloaded; `Retry-After` says when to retry",
    500: "The model failed on this batch",
    503: "The model has no version that serves yet",
    504: "The deadline passed",
}
_BYTES: Final = {"schema": {"type": "string", "format": "binary"}}
_JSON_LENGTH: Final = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "Bytes of the JSON at the start of the body.",
    "schema": {"type": "integer", "minimum": 0},
}
_DESCRIPTION: Final = (
    "Tensors as JSON, or as bytes after the JSON (`Inference-Header-Content-Length`). A body "
    "without JSON, whose header is 0, is one encoded image or pixels."
)


def describe_infer_routes(
    references: Mapping[Any, Any], describe_path: Callable[[str], list[dict[str, Any]]]
) -> dict[str, Any]:
    """The paths of the document.

    Args:
        references: References to the schemas of `INFER_SCHEMAS`.
        describe_path: Describes the parameters of a path.
    """
    error = {"application/json": {"schema": references[OpenInferenceError]}}
    answer = {
        "application/json": {"schema": references[InferAnswer]},
        "application/octet-stream": _BYTES,
    }
    body = {
        "application/json": {"schema": references[InferBody]},
        "application/octet-stream": _BYTES,
    }
    errors = {
        str(status): {"description": description, "content": error}
        for status, description in INFERENCE_ERRORS.items()
    }
    return {
        path: {
            "post": {
                "tags": ["open inference"],
                "summary": summary,
                "description": _DESCRIPTION,
                "operationId": operation,
                "parameters": [*describe_path(path), _JSON_LENGTH],
                "requestBody": {"required": True, "content": body},
                "responses": {"200": {"description": "The outputs", "content": answer}} | errors,
                "security": [{}, {"HTTPBearer": []}],
            }
        }
        for path, (operation, summary) in INFER_PATHS.items()
    }
