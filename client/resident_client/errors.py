"""The errors that the client raises. All are subclasses of `ResidentError`."""

from typing import Any


class ResidentError(Exception):
    """Base class of the client's errors."""


class ConnectionFailedError(ResidentError):
    """No complete response arrived: the connection failed or timed out."""


class ImageInputError(ResidentError):
    """An image cannot be read or encoded on the client's side, so it was not sent."""


class ResponseError(ResidentError):
    """The service answered with an error.

    Attributes:
        status: The HTTP status.
        code: The stable code of the error, like `model_not_found`. Match on it, not on the text.
        detail: The explanation for people.
        request_id: The id under which the service logged the request.
        retry_after: Seconds after which to retry, if the service sent them.
        errors: One entry per image, if every image of a request failed.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        request_id: str | None = None,
        retry_after: float | None = None,
        errors: tuple[dict[str, Any], ...] = (),
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.retry_after = retry_after
        self.errors = errors
