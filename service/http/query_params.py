"""What a prediction request asks for in its query, besides its images."""

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from service.engine.loaded_version import LoadedVersion
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.errors import BadRequestError

DEFAULT_TOP_K: Final = 5
MOST_FIELDS: Final = 100
PRIORITIES: Final[dict[str, Priority]] = {"1": INTERACTIVE, "2": BULK}
_WHOLE_NUMBER: Final = re.compile("[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class QueryParams:
    """As checked. A field that is None was not given."""

    top_k: int = DEFAULT_TOP_K
    coverage: str | None = None
    timeout_ms: int | None = None
    priority: Priority = INTERACTIVE

    def timeout_seconds(self, longest: float) -> float:
        """How long the answer may take: as asked, capped by the setting."""
        return longest if self.timeout_ms is None else min(self.timeout_ms / 1e3, longest)


_DEFAULTS: Final = QueryParams()


def parse_query_params(query: bytes, found: LoadedVersion) -> QueryParams:
    """Of a query string. Other names are left to others. Raises BadRequestError that says what is taken."""
    if not query:
        return _DEFAULTS
    try:
        given = dict(
            parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
        )
    except ValueError:
        raise _invalid(f"the query has more than {MOST_FIELDS} parameters") from None
    if (coverage := given.get("coverage")) is not None:
        found.find_coverage(coverage)
    timeout = given.get("timeout_ms")
    return QueryParams(
        top_k=_whole("top_k", given.get("top_k", str(DEFAULT_TOP_K))),
        coverage=coverage,
        timeout_ms=None if timeout is None else _whole("timeout_ms", timeout),
        priority=_priority(given.get("priority", "1")),
    )


def _whole(name: str, text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise _invalid(f"{name} must be a whole number from 1 up, not {text[:40]!r}")
    return int(text)


def _priority(text: str) -> Priority:
    if text not in PRIORITIES:
        raise _invalid(
            f"priority must be 1 (interactive) or 2 (bulk: what interactive leaves), not {text[:40]!r}"
        )
    return PRIORITIES[text]


def _invalid(detail: str) -> BadRequestError:
    return BadRequestError(detail, code="invalid_parameter")


DOCUMENTED: Final[list[dict[str, Any]]] = [
    {
        "name": "top_k",
        "in": "query",
        "description": "How many classes to return, best first; capped at the model's classes.",
        "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
    },
    {
        "name": "coverage",
        "in": "query",
        "description": "Also return the set of labels that holds the right one with this probability. "
        "What a model offers stands in its `coverages`; others, and a model without any, are a 400 problem.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "example": 0.95,
    },
    {
        "name": "timeout_ms",
        "in": "query",
        "description": "How long the answer may take; capped by the service's deadline. What can not be done by then is refused at "
        "once with 429 and the predicted wait.",
        "schema": {"type": "integer", "minimum": 1},
    },
    {
        "name": "priority",
        "in": "query",
        "description": "1: interactive. 2: bulk, which takes the places in batches that interactive images leave.",
        "schema": {"type": "integer", "enum": [1, 2], "default": 1},
    },
]
"""For the OpenAPI document."""
