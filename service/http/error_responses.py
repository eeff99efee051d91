"""Describes errors in the OpenAPI document: every status and code that an operation can return."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

import orjson

from service.error_codes import ERROR_CODES
from service.errors import ServiceError
from service.http.problem_details import Reply, reply_to
from service.http.schemas import Problem

ErrorResponses = dict[int | str, dict[str, Any]]

SERVING_ERRORS: Final = ("invalid_parameter", "model_not_found", "version_not_found", "not_ready")
"""Errors of operations on a version that serves."""
KEY_ERRORS: Final = ("unauthorized", "insufficient_scope", "rate_limited")
"""Errors of operations that may require a key."""
MANAGE_KEY_ERRORS: Final = (*KEY_ERRORS, "management_disabled")
BODY_ERRORS: Final = ("slow_body", "body_too_large")
IMAGE_ERRORS: Final = (
    *("empty_image", "not_an_image", "truncated_image", "corrupt_image", "image_too_expensive"),
    *("too_many_images", "too_many_pixels", "unsupported_image", "unsupported_encoding"),
)
RUN_ERRORS: Final = ("overloaded", "inference_failed", "invalid_model_output", "deadline_exceeded")
INFERENCE_ERRORS: Final = (
    *KEY_ERRORS,
    *SERVING_ERRORS,
    *BODY_ERRORS,
    *("malformed_json", "malformed_base64"),
    *IMAGE_ERRORS,
    *RUN_ERRORS,
)
"""Errors of every operation that classifies images."""
_HEADERS: Final = {
    401: {"WWW-Authenticate": "The scheme of the key: `Bearer` (RFC 6750)."},
    429: {"Retry-After": "Seconds until a new try makes sense."},
}


def describe_errors(
    *codes: str,
    reply: Callable[[Exception, str], Reply] = reply_to,
    schema: str = Problem.__name__,
) -> ErrorResponses:
    """The error responses of an operation, by status. Every operation has `internal_error`.

    Args:
        codes: Codes of `ERROR_CODES`.
        reply: Turns an error into a response, in the format of the protocol.
        schema: Name of the schema of that response.
    """
    by_status = defaultdict[int, list[str]](list)
    for code in (*codes, "internal_error"):
        by_status[int(ERROR_CODES[code].status)].append(code)
    responses: ErrorResponses = {}
    for status, found in sorted(by_status.items()):
        replies = {code: reply(_example(code), "") for code in found}
        media_type = replies[found[0]].media_type
        responses[status] = {
            "description": " ".join(f"`{code}`: {ERROR_CODES[code].meaning}" for code in found),
            "content": {
                media_type: {
                    "schema": {"$ref": f"#/components/schemas/{schema}"},
                    "examples": {
                        code: {"value": orjson.loads(each.body)} for code, each in replies.items()
                    },
                }
            },
        }
        if status in _HEADERS:
            responses[status]["headers"] = {
                name: {"description": description, "schema": {"type": "string"}}
                for name, description in _HEADERS[status].items()
            }
    return responses


def _example(code: str) -> ServiceError:
    error = ServiceError(ERROR_CODES[code].meaning, code)
    error.status = ERROR_CODES[code].status
    return error
