"""The errors of the service. Each has an HTTP status and a stable code.

::

    ServiceError
    ├── BadRequestError          400  empty_body, malformed_json, malformed_base64,
    │                                 malformed_multipart, malformed_zip, malformed_tensor,
    │                                 no_images, invalid_parameter, no_label_sets, no_embedding,
    │                                 no_explanation,
    │                                 empty_image, url_not_allowed
    │   └── ImageUrlError        400  url_not_allowed
    ├── UnauthorizedError        401  unauthorized, with WWW-Authenticate
    ├── ForbiddenError           403  management_disabled, insufficient_scope
    ├── NotFoundError            404  model_not_found, version_not_found, alias_not_found,
    │                                 example_not_found, report_not_found, no_default_model
    ├── BodyTimeoutError         408  slow_body
    ├── ConflictError            409  version_failed, last_version, alias_not_moved,
    │                                 store_read_only, not_unloaded
    ├── TooLargeError            413  body_too_large, too_many_images
    ├── UnsupportedMediaError    415  unsupported_media_type, unsupported_encoding
    ├── HostNotAllowedError      421  host_not_allowed
    ├── OverloadedError          429  overloaded, rate_limited, with Retry-After
    ├── InferenceError           500  inference_failed
    ├── InvalidModelOutputError  500  invalid_model_output
    ├── BadGatewayError          502  fetch_failed
    ├── NotReadyError            503  not_ready
    ├── DeadlineExceededError    504  deadline_exceeded
    ├── EveryImageFailedError    status and code of the images if they agree, else
    │                            400 no_image_classified
    └── FailedImageError         status and code of the image

Image errors of `model_store.errors` carry their own codes; `IMAGE_STATUS` gives them a status.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Final, Literal

from model_store.errors import ImageError, ImageUnsupportedError, TooManyPixelsError

MAX_DETAIL_LENGTH: Final = 1000
RejectionReason = Literal[
    "queue_full", "deadline", "upload_bytes", "decoders", "rate_limit", "live_views", "other"
]


class ServiceError(Exception):
    """Base class. Clients receive `detail`, so it must not contain file paths or tracebacks."""

    status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    default_code: ClassVar[str] = "internal_error"
    errors: tuple[dict[str, Any], ...] = ()

    def __init__(
        self, detail: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code or self.default_code
        self.headers = dict(headers or {})


class BadRequestError(ServiceError):
    status = HTTPStatus.BAD_REQUEST
    default_code = "bad_request"


class ImageUrlError(BadRequestError):
    """An image that has a URL in place of its bytes. Where URLs are not fetched, it is an error."""

    default_code = "url_not_allowed"

    def __init__(self, url: str) -> None:
        super().__init__(
            "the image URL is not allowed: this service fetches no images "
            "(SERVICE_FETCH_ALLOW is empty)"
        )
        self.url = url


class UnauthorizedError(ServiceError):
    status = HTTPStatus.UNAUTHORIZED
    default_code = "unauthorized"


class ForbiddenError(ServiceError):
    """The API key lacks the scope, or no key has it yet."""

    status = HTTPStatus.FORBIDDEN
    default_code = "insufficient_scope"


class ConflictError(ServiceError):
    status = HTTPStatus.CONFLICT
    default_code = "conflict"


class NotFoundError(ServiceError):
    """The model or version does not exist or is not served."""

    status = HTTPStatus.NOT_FOUND
    default_code = "model_not_found"


class BodyTimeoutError(ServiceError):
    status = HTTPStatus.REQUEST_TIMEOUT
    default_code = "slow_body"


class TooLargeError(ServiceError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    default_code = "body_too_large"


class UnsupportedMediaError(ServiceError):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    default_code = "unsupported_media_type"


class HostNotAllowedError(ServiceError):
    """The header `Host` names another host than this service."""

    status = HTTPStatus.MISDIRECTED_REQUEST
    default_code = "host_not_allowed"


class OverloadedError(ServiceError):
    """The request was rejected because of load. `Retry-After` says when to retry.

    Attributes:
        reason: Which limit rejected it, for the metrics.
    """

    status = HTTPStatus.TOO_MANY_REQUESTS
    default_code = "overloaded"

    def __init__(
        self,
        detail: str,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        reason: RejectionReason = "other",
    ) -> None:
        super().__init__(detail, code, headers)
        self.reason = reason


class InferenceError(ServiceError):
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    default_code = "inference_failed"


class InvalidModelOutputError(ServiceError):
    """The model returned NaN or infinity for an image."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    default_code = "invalid_model_output"


class BadGatewayError(ServiceError):
    """Another host, from which an image was to be fetched, did not send it."""

    status = HTTPStatus.BAD_GATEWAY
    default_code = "fetch_failed"


class NotReadyError(ServiceError):
    """The model exists, but no version of it serves yet."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    default_code = "not_ready"


class DeadlineExceededError(ServiceError):
    status = HTTPStatus.GATEWAY_TIMEOUT
    default_code = "deadline_exceeded"


class ClientDisconnectedError(Exception):
    """The client disconnected before the response; its images were dropped."""


class EveryImageFailedError(ServiceError):
    """None of several images could be classified; `errors` has one entry per image."""

    default_code = "no_image_classified"

    def __init__(self, causes: "Sequence[ServiceError | ImageError]") -> None:
        self.errors = tuple(describe(cause) for cause in causes)
        agreed = len({(error["status"], error["code"]) for error in self.errors}) == 1
        self.status = status_of(causes[0]) if agreed else HTTPStatus.BAD_REQUEST
        super().__init__(
            f"none of the {len(causes)} images could be classified",
            code=causes[0].code if agreed else None,
        )


class FailedImageError(ServiceError):
    """One of several images failed, and the response cannot state that: it has tensors."""

    def __init__(self, number: int, count: int, cause: ServiceError | ImageError) -> None:
        headers = cause.headers if isinstance(cause, ServiceError) else None
        super().__init__(f"image {number} of {count}: {cause}", cause.code, headers)
        self.status = status_of(cause)


def check_image_count(count: int, max_images: int) -> None:
    """Raise TooLargeError if a request has more images than are allowed."""
    if count > max_images:
        raise TooLargeError(
            f"a request may have at most {max_images} images, got {count}", code="too_many_images"
        )


IMAGE_STATUS: Final[Mapping[type[ImageError], HTTPStatus]] = {
    TooManyPixelsError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ImageUnsupportedError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}
"""Image errors with a status other than 400."""


def status_of(error: ServiceError | ImageError) -> HTTPStatus:
    if isinstance(error, ServiceError):
        return error.status
    return IMAGE_STATUS.get(type(error), HTTPStatus.BAD_REQUEST)


def describe(error: ServiceError | ImageError) -> dict[str, Any]:
    """The error of one image, as the response shows it."""
    return {
        "code": error.code,
        "status": int(status_of(error)),
        "detail": shorten(str(error), MAX_DETAIL_LENGTH),
    }


def shorten(text: str, length: int = 100) -> str:
    """Cut text to `length` characters, because error messages repeat what clients send."""
    return text if len(text) <= length else f"{text[:length]}... ({len(text):,} characters)"


def problem(
    status: int, code: str, detail: str, errors: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """A problem details object (RFC 9457). If all images failed, `errors` has one entry each."""
    document: dict[str, Any] = {
        "type": f"urn:resident:error:{code}",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": shorten(detail, MAX_DETAIL_LENGTH),
        "code": code,
    }
    return {**document, "errors": list(errors)} if errors else document
