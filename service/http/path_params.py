"""The path parameters that several routes share."""

from typing import Annotated

from fastapi import Path
from pydantic import BeforeValidator

from model_store.errors import InvalidNameError
from model_store.names import parse_version
from service.errors import BadRequestError


def parse_version_number(text: str) -> int:
    """Parse a version number in a path. Raises BadRequestError unless it is `1`, `2` and so on."""
    try:
        return parse_version(text)
    except InvalidNameError as error:
        raise BadRequestError(f"version: {error}", code="invalid_parameter") from None


ModelName = Annotated[str, Path(description="Name of a model, as `GET /v1/models` lists it.")]
VersionNumber = Annotated[
    int, Path(description="Number of a version.", ge=1), BeforeValidator(parse_version_number)
]
AliasName = Annotated[
    str, Path(description="Name of an alias; starts with a letter. A new name creates an alias.")
]
