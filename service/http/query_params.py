"""The query parameters of the prediction routes: validation and documentation."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import parse_qsl

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from model_store.aliases import ALIAS_PATTERN, is_alias_name
from model_store.validation import DeferredModel, describe_validation_error
from service.engine.classification import MAX_RANKED
from service.engine.priority import INTERACTIVE, Priority
from service.errors import BadRequestError, shorten
from service.prediction.request import DEFAULT_TOP_K

MAX_QUERY_FIELDS: Final = 100
MAX_WHOLE_NUMBER: Final = 999_999_999
_WHOLE_NUMBER: Final = re.compile("[1-9][0-9]{0,8}")
_FRACTION: Final = re.compile(r"0?(\.[0-9]{1,9})")


def _whole_number(largest: int = MAX_WHOLE_NUMBER) -> BeforeValidator:
    def parse(text: str) -> int:
        # int() also takes " 5", "+5", "1_0" and other scripts
        if not _WHOLE_NUMBER.fullmatch(text) or int(text) > largest:
            raise ValueError(
                f"must be a whole number from 1 to {largest:,}, got {shorten(text, 40)!r}"
            )
        return int(text)

    return BeforeValidator(parse)


def _check_alias(text: str) -> str:
    if not is_alias_name(text):
        raise ValueError(f"must be the name of an alias, got {shorten(text, 40)!r}")
    return text


class EmbedParams(DeferredModel):
    """The query of an embedding request. Parameters with other names are an error."""

    model_config = ConfigDict(frozen=True)

    version: Annotated[
        int | None,
        WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_WHOLE_NUMBER}),
        _whole_number(),
        Field(description="The version that answers, as in the path. It must be served."),
    ] = None
    alias: Annotated[
        str | None,
        AfterValidator(_check_alias),
        Field(
            description="The alias whose version answers. It must be served: see "
            "`SERVICE_VERSION_POLICY`.",
        ),
        WithJsonSchema({"type": "string", "pattern": f"^{ALIAS_PATTERN}$"}),
    ] = None
    timeout_ms: Annotated[
        int | None,
        WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_WHOLE_NUMBER}),
        _whole_number(),
        Field(
            description="Milliseconds within which the response must be ready, capped by "
            "`SERVICE_DEADLINE_SECONDS`. A request that cannot finish in time is rejected "
            "immediately with 429 and the predicted wait.",
        ),
    ] = None
    priority: Annotated[
        Priority,
        _whole_number(),
        Field(
            description="1: interactive. 2: bulk, which fills the places in batches that "
            "interactive images leave.",
        ),
    ] = INTERACTIVE


class QueryParams(EmbedParams):
    """The query of a prediction request. Parameters with other names are an error."""

    top_k: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_RANKED,
            description=f"Number of classes to return, most probable first: 1 to {MAX_RANKED:,}. "
            "Capped at the number of classes of the model.",
        ),
        _whole_number(MAX_RANKED),
    ] = DEFAULT_TOP_K
    coverage: Annotated[
        str | None,  # text, because find_coverage_index compares it with text
        WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        Field(
            description="Also return the prediction set: the labels that contain the correct one "
            "with this probability. Must be one of the `coverages` of the model.",
        ),
    ] = None
    embedding: Annotated[
        bool,
        Field(
            description="Also return the embedding of each image: the pooled features before the "
            "last layer.",
        ),
    ] = False
    explain: Annotated[
        Literal["map", "overlay"] | None,
        Field(
            description="Also return where the model looked for each of the `top_k` labels: `map` "
            "as numbers, `overlay` as a PNG to lay over the image. JSON responses only.",
        ),
    ] = None


Params = TypeVar("Params", bound=EmbedParams)


@lru_cache(maxsize=64)  # a program usually sends the same one again
def parse_query_params(query: bytes, kind: type[Params]) -> Params:
    """Parse a query string into `kind`.

    Raises:
        BadRequestError: A parameter is unknown or has no valid value.
    """
    if not query:
        return kind()
    try:
        fields = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError:
        raise BadRequestError(
            f"the query must have at most {MAX_QUERY_FIELDS} parameters", code="invalid_parameter"
        ) from None
    _check_names([name for name, _ in fields], list(kind.model_fields))
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        raise BadRequestError(describe_validation_error(error), code="invalid_parameter") from None


def _check_names(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            meant = get_close_matches(name[:40].lower(), known, n=1)
            advice = f"did you mean `{meant[0]}`?" if meant else f"expected {', '.join(known)}"
            raise BadRequestError(
                f"there is no query parameter {shorten(name, 40)!r}: {advice}",
                code="invalid_parameter",
            )


def find_coverage_index(coverage: str, offered: Sequence[str], version: str) -> int:
    """Return the index of a coverage, like `0.95`, in the coverages that the version offers.

    Raises:
        BadRequestError: The version has no prediction sets, or none with this coverage.
    """
    if not offered:
        raise BadRequestError(
            f"{version} has no prediction sets: omit `coverage`", code="no_label_sets"
        )
    fraction = _FRACTION.fullmatch(coverage)
    normalized = f"0{fraction[1].rstrip('0')}" if fraction else None
    if normalized not in offered:
        raise BadRequestError(
            f"`coverage` must be one of {', '.join(offered)} for {version}, "
            f"got {shorten(coverage, 40)!r}",
            code="invalid_parameter",
        )
    return offered.index(normalized)
