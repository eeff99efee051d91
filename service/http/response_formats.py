"""The formats of a prediction response, and the choice of one by the header `Accept`."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from service.prediction.response import encode_json

JSON: Final = "application/json"
CSV: Final = "text/csv"
LINES: Final = "application/x-ndjson"
MAX_ACCEPT_LENGTH: Final = 1000
_QUALITY: Final = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")
_WILDCARDS: Final = {"*/*": JSON, "application/*": JSON, "text/*": CSV}
_CSV_COLUMNS: Final = ("image", "name", "rank", "label", "index", "score", "abstained", "error")
_LIST_COLUMNS: Final = ("labels", "embedding")
"""Columns that only some requests ask for. The first row of an image has them as JSON arrays."""


def choose_format(accept: str) -> str:
    """The media type of `FORMATS` that a client prefers; JSON if it accepts none of them.

    Of equal preferences (RFC 9110, 12.5.1), one that is named comes before a wildcard.
    """
    if accept in {"", "*/*", JSON}:
        return JSON
    chosen, preference = JSON, (0.0, False)
    for entry in accept[:MAX_ACCEPT_LENGTH].lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        media_type = name if name in FORMATS else _WILDCARDS.get(name)
        offered = _quality(parameters), name in FORMATS
        if media_type and offered[0] > 0 and offered > preference:
            chosen, preference = media_type, offered
    return chosen


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if match := _QUALITY.fullmatch(parameter):
            return float(match[1])
    return 1.0


def encode_csv(document: Mapping[str, Any]) -> bytes:
    """One row per prediction, with a header; an image with an error has one row (RFC 4180)."""
    results = document["results"]
    lists = [column for column in _LIST_COLUMNS if any(column in result for result in results)]
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow([*_CSV_COLUMNS, *lists])
    for image, result in enumerate(results):
        arrays = [orjson.dumps(result[name]).decode() if name in result else "" for name in lists]
        abstained = str(result["abstained"]).lower() if "abstained" in result else ""
        for rank, best in enumerate(result.get("predictions", [{}]), start=1):
            rows.writerow(
                [
                    image,
                    result.get("name", ""),
                    rank if best else "",
                    *(best.get(field, "") for field in ("label", "index", "score")),
                    abstained,
                    result["error"]["code"] if "error" in result else "",
                    *(arrays if rank == 1 else [""] * len(arrays)),
                ]
            )
    return text.getvalue().encode()


def encode_lines(document: Mapping[str, Any]) -> bytes:
    """One line of JSON per image: its result, after its position as `image`."""
    return b"".join(
        orjson.dumps({"image": image, **result}, option=orjson.OPT_APPEND_NEWLINE)
        for image, result in enumerate(document["results"])
    )


FORMATS: Final[Mapping[str, Callable[[dict[str, Any]], bytes]]] = {
    JSON: encode_json,
    CSV: encode_csv,
    LINES: encode_lines,
}
"""How to encode the response document, by media type."""
