"""What the OpenAPI document says about TensorFlow Serving's prediction routes."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from service.http.error_responses import INFERENCE_ERRORS
from service.http.openapi_operation import DialectOperation
from service.protocols.open_inference.errors import describe_open_inference_errors
from service.protocols.tensorflow_serving import PATHS, InstancesAnswer, InstancesBody

INSTANCES_SCHEMAS: Final[Mapping[type[BaseModel], JsonSchemaMode]] = {
    InstancesBody: "validation",
    InstancesAnswer: "serialization",
}
_DESCRIPTION: Final = (
    "TensorFlow Serving's row format, which KServe calls protocol v1: base64 of encoded images. "
    "One image that fails fails the request."
)


def describe_instances_routes(references: Mapping[Any, Any]) -> list[DialectOperation]:
    """The operations, with references to the schemas of `INSTANCES_SCHEMAS`."""
    return [
        DialectOperation(
            path=path,
            name=operation,
            tag="tensorflow serving",
            summary=summary,
            description=_DESCRIPTION,
            body={"application/json": {"schema": references[InstancesBody]}},
            success="The predictions",
            answer={"application/json": {"schema": references[InstancesAnswer]}},
            errors=describe_open_inference_errors(*INFERENCE_ERRORS, "alias_not_found"),
        )
        for path, (operation, summary) in PATHS.items()
    ]
