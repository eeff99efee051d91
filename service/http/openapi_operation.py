"""Describes the operations of dialects in the OpenAPI document. FastAPI does not know them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter

from service.http.answer_headers import RESPONSE_HEADERS
from service.http.error_responses import ErrorResponses
from service.http.path_params import AliasName, ModelName, VersionNumber

BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_PATH_PARAMS: Final[dict[str, Any]] = {
    "model": ModelName,
    "version": VersionNumber,
    "label": AliasName,
}


@dataclass(frozen=True)
class DialectOperation:
    """An operation on images.

    Attributes:
        path: The path, with names of parameters in braces.
        name: The id of the operation.
        tag: The dialect.
        summary: One line.
        description: More lines.
        body: Media types of the request and what they contain.
        success: Description of the response with status 200.
        answer: Media types of that response.
        errors: The other responses.
        parameters: Parameters besides those of the path.
        headers: Headers of the response besides the common ones.
        path_params: Descriptions of parameters of the path that differ from the usual ones.
        method: The HTTP method.
    """

    path: str
    name: str
    tag: str
    summary: str
    description: str
    body: Mapping[str, Any]
    success: str
    answer: Mapping[str, Any]
    errors: ErrorResponses
    parameters: Sequence[dict[str, Any]] = ()
    headers: Mapping[str, Any] = field(default_factory=dict)
    path_params: Mapping[str, Any] = field(default_factory=dict)
    method: str = "post"

    def describe(self) -> dict[str, Any]:
        """The operation as the document has it."""
        headers = {
            name: {"description": description, "schema": {"type": "string"}}
            for name, description in RESPONSE_HEADERS.items()
        }
        return {
            "tags": [self.tag],
            "summary": self.summary,
            "description": self.description,
            "operationId": self.name,
            "parameters": [*self._describe_path(), *self.parameters],
            "requestBody": {"required": True, "content": self.body},
            "responses": {
                "200": {
                    "description": self.success,
                    "headers": {**headers, **self.headers},
                    "content": self.answer,
                },
                **{str(status): response for status, response in self.errors.items()},
            },
            "security": [{}, {"HTTPBearer": []}],
        }

    def _describe_path(self) -> list[dict[str, Any]]:
        known = {**_PATH_PARAMS, **self.path_params}
        return [
            describe_parameter(name, "path", TypeAdapter(known[name]).json_schema(), required=True)
            for name in re.findall(r"{(\w+)}", self.path)
        ]


def describe_parameter(
    name: str, location: str, schema: dict[str, Any], **extra: Any
) -> dict[str, Any]:
    description = schema.pop("description")
    schema.pop("title", None)
    return {"name": name, "in": location, "description": description, "schema": schema, **extra}
