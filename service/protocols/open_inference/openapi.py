"""What the OpenAPI document says about the inference routes."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from service.http.error_responses import INFERENCE_ERRORS
from service.http.openapi_operation import BINARY, DialectOperation
from service.protocols.open_inference.errors import describe_open_inference_errors
from service.protocols.open_inference.rest_infer import INFER_PATHS
from service.protocols.open_inference.schemas import InferAnswer, InferBody, OpenInferenceError

INFER_SCHEMAS: Final[Mapping[type[BaseModel], JsonSchemaMode]] = {
    InferBody: "validation",
    InferAnswer: "serialization",
    OpenInferenceError: "serialization",
}
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
_ERRORS: Final = (*INFERENCE_ERRORS, "empty_body", "malformed_tensor", "no_images")


def describe_infer_routes(references: Mapping[Any, Any]) -> list[DialectOperation]:
    """The operations, with references to the schemas of `INFER_SCHEMAS`."""
    return [
        DialectOperation(
            path=path,
            name=operation,
            tag="open inference",
            summary=summary,
            description=_DESCRIPTION,
            parameters=[_JSON_LENGTH],
            body={
                "application/json": {"schema": references[InferBody]},
                "application/octet-stream": BINARY,
            },
            success="The outputs",
            answer={
                "application/json": {"schema": references[InferAnswer]},
                "application/octet-stream": BINARY,
            },
            errors=describe_open_inference_errors(*_ERRORS),
        )
        for path, (operation, summary) in INFER_PATHS.items()
    ]
