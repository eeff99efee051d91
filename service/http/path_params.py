"""The path parameters that several routes share."""

from typing import Annotated

from fastapi import Path
from pydantic import BeforeValidator

from model_store.aliases import ALIAS_PATTERN
from model_store.errors import InvalidNameError
from model_store.names import MAX_VERSION, NAME_PATTERN, parse_version
from service.errors import BadRequestError


def parse_version_number(text: str) -> int:
    """Parse a version number in a path. Raises BadRequestError unless it is `1`, `2` and so on."""
    try:
        return parse_version(text)
    except InvalidNameError as error:
        raise BadRequestError(f"version: {error}", code="invalid_parameter") from None


# The patterns are only documented: no such model or alias exists, which is a 404.
ModelName = Annotated[
    str,
    Path(
        description="Name of a model, as `GET /v1/models` lists it.",
        json_schema_extra={"pattern": f"^{NAME_PATTERN}$"},
    ),
]
VersionNumber = Annotated[
    int,
    Path(description="Number of a version.", ge=1, le=MAX_VERSION),
    BeforeValidator(parse_version_number),
]
AliasName = Annotated[
    str,
    Path(
        description="Name of an alias; starts with a letter. A new name creates an alias.",
        json_schema_extra={"pattern": f"^{ALIAS_PATTERN}$"},
    ),
]
