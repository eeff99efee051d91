"""Validation of JSON documents: the base model, field types and one-line error messages."""

import unicodedata
from pathlib import PurePosixPath
from typing import Annotated, Final

import pydantic
from pydantic import AfterValidator, Field, StringConstraints

MAX_PROBLEMS: Final = 5


def _check_relative_path(path: str) -> str:
    parts = PurePosixPath(path).parts
    if (
        path != "/".join(parts)
        or path.startswith("/")
        or ".." in parts
        or any(character in path for character in "\\:")
        or any(unicodedata.category(character) in {"Cc", "Zl", "Zp"} for character in path)
    ):
        raise ValueError(f"{path!r} is not a plain relative path inside the version's directory")
    return path


FilePath = Annotated[
    str, StringConstraints(min_length=1, max_length=255), AfterValidator(_check_relative_path)
]
"""A POSIX path relative to a version's directory, without `..`."""
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
NonEmptyText = Annotated[str, Field(min_length=1)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def to_whole_number(value: object) -> object:
    """An integer for a number without a fraction: in JSON Schema, 1.0 is an integer too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class DeferredModel(pydantic.BaseModel):
    """A model whose schema is built on first use, which saves up to 1 ms of each start."""

    model_config = pydantic.ConfigDict(defer_build=True)


class FrozenModel(pydantic.BaseModel):
    """Base of the documents that the project writes: immutable, strict, without unknown fields."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class DeferredFrozenModel(FrozenModel):
    """A document that most starts of the service do not read, so its schema is built on first use.

    That saves 1 to 3 ms for each.
    """

    model_config = pydantic.ConfigDict(defer_build=True)


def describe_validation_error(error: pydantic.ValidationError) -> str:
    """The first problems of a validation error as one line, without the rejected input.

    Inputs are left out because they may be secrets, and the line goes to clients and logs.

    Returns:
        `"field.name: what is wrong"`, joined by `"; "` for at most five problems. A problem of the
        whole document has no field name in front.
    """
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        _describe(problem["loc"], problem["msg"]) for problem in problems[:MAX_PROBLEMS]
    )


def _describe(location: tuple[int | str, ...], message: str) -> str:
    # Errors that our own validators raise arrive with this prefix.
    message = message.removeprefix("Value error, ")
    return f"{'.'.join(map(str, location))}: {message}" if location else message
