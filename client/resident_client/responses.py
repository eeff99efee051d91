"""Reads responses of the service and of proxies in front of it."""

import email.utils
import json
import time
from typing import Any, Final

import httpx

from resident_client.errors import ResponseError
from resident_client.results import ImageFailure, read_failure

_IMAGE_STATUSES: Final = frozenset({400, 413, 415})
_REQUEST_CODES: Final = frozenset({"invalid_parameter", "no_label_sets", "no_embedding"})
"""Codes with these statuses that do not concern the image."""


def read_json(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of a response. Raises ResponseError if there is none."""
    try:
        document = json.loads(response.content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ResponseError(
            response.status_code,
            "unexpected_response",
            "expected a JSON object; is this the address of a Resident service?",
        )
    return document


def image_failures(error: ResponseError, count: int) -> list[ImageFailure]:
    """Return the failures of the images, if each of them failed; else nothing."""
    if error.errors:
        return [read_failure(entry) for entry in error.errors]
    if count == 1 and error.status in _IMAGE_STATUSES and error.code not in _REQUEST_CODES:
        return [ImageFailure(error.code, error.detail, error.status)]
    return []


def read_error(response: httpx.Response) -> ResponseError:
    """Return the error that a response describes."""
    try:
        document = json.loads(response.content)
        code, detail = str(document["code"]), str(document["detail"])
        errors = tuple(document.get("errors", ()))
    except (ValueError, KeyError, TypeError, AttributeError):  # the response of a proxy
        code, detail, errors = "http_error", response.reason_phrase, ()
    return ResponseError(
        response.status_code,
        code,
        detail,
        response.headers.get("X-Request-Id"),
        _retry_after(response.headers.get("Retry-After")),
        errors,
    )


def _retry_after(value: str | None) -> float | None:
    """Read seconds or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
