"""What the OpenAPI document says about TensorFlow Serving's prediction routes."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from service.protocols.open_inference.openapi import INFERENCE_ERRORS
from service.protocols.open_inference.schemas import OpenInferenceError
from service.protocols.tensorflow_serving import PATHS, InstancesAnswer, InstancesBody

INSTANCES_SCHEMAS: Final[Mapping[type[BaseModel], JsonSchemaMode]] = {
    InstancesBody: "validation",
    InstancesAnswer: "serialization",
}
_DESCRIPTION: Final = (
    "TensorFlow Serving's row format, which KServe calls protocol v1: base64 of encoded images. "
    "One image that fails fails the request."
)


def describe_instances_routes(
    references: Mapping[Any, Any], describe_path: Callable[[str], list[dict[str, Any]]]
) -> dict[str, Any]:
    """The paths of the document. The arguments are those of `describe_infer_routes`."""
    error = {"application/json": {"schema": references[OpenInferenceError]}}
    errors = {
        str(status): {"description": description, "content": error}
        for status, description in INFERENCE_ERRORS.items()
    }
    answer = {"application/json": {"schema": references[InstancesAnswer]}}
    body = {"application/json": {"schema": references[InstancesBody]}}
    return {
        path: {
            "post": {
                "tags": ["tensorflow serving"],
                "summary": summary,
                "description": _DESCRIPTION,
                "operationId": operation,
                "parameters": describe_path(path),
                "requestBody": {"required": True, "content": body},
                "responses": {"200": {"description": "The predictions", "content": answer}}
                | errors,
                "security": [{}, {"HTTPBearer": []}],
            }
        }
        for path, (operation, summary) in PATHS.items()
    }
