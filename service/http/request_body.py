"""Read a request body and split it into encoded images: raw image, form, JSON or ZIP archive."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from pydantic import BaseModel
from starlette.types import Receive

from model_store.errors import ImageCorruptError, ImageError, NotAnImageError
from model_store.image_header import sniff
from service.errors import (
    BadRequestError,
    BodyTimeoutError,
    ClientDisconnectedError,
    TooLargeError,
    UnsupportedMediaError,
    check_image_count,
    shorten,
)
from service.http.json_body import JsonBody, read_json, starts_like_json
from service.http.multipart_body import (
    MultipartError,
    Part,
    count_parts,
    find_boundary,
    read_parts,
)
from service.http.zip_body import ZIP_TYPES, ZipBody, starts_like_zip
from service.prediction.request import EncodedImage, RequestImages

FIELD: Final = "images"
MAX_LENGTH_DIGITS: Final = 19
MAX_TEXT_FIELDS: Final = 64
"""Largest number of text fields in a form, beside its images."""
MAX_NAME_LENGTH: Final = 255
"""Longer names of images are cut in the response."""
INLINE_BYTES: Final = 128 * 1024
"""Forms and JSON up to this size are parsed faster than they could be passed to a thread."""
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_=-]+")
_URL_ENCODED: Final = "application/x-www-form-urlencoded"
_RAW_TYPES: Final = ("", "application/octet-stream", "binary/octet-stream", _URL_ENCODED)


class BodyKind(Enum):
    IMAGE = auto()
    JSON = auto()
    FORM = auto()
    ZIP = auto()
    UNSUPPORTED = auto()


_FILE: Final = {"type": "string", "format": "binary"}
BODY_SCHEMAS: Final[Mapping[str, type[BaseModel] | dict[str, Any]]] = {
    "image/*": _FILE,
    "multipart/form-data": {
        "type": "object",
        "properties": {
            FIELD: {
                "type": "array",
                "items": _FILE,
                "minItems": 1,
                "description": "The images. Their fields may have any other name, too.",
            }
        },
        "required": [FIELD],
    },
    "application/json": JsonBody,
    "application/zip": _FILE,
}
"""The body of a prediction request by media type: a pydantic model or a JSON schema."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of the body of one request."""

    max_images: int
    max_body_bytes: int


def check_headers(headers: Mapping[str, str], max_body_bytes: int) -> None:
    """Reject a body by its headers, before it is read.

    Raises:
        TooLargeError: `Content-Length` exceeds `max_body_bytes`.
        UnsupportedMediaError: The body has a content coding.
    """
    encoding = headers.get("content-encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        raise UnsupportedMediaError(
            "Content-Encoding is not supported: send the body without it",
            code="unsupported_encoding",
        )
    length = content_length(headers)
    if length > max_body_bytes:
        raise _body_too_large(max_body_bytes, f"its Content-Length is {length:,}")


def content_length(headers: Mapping[str, str]) -> int:
    """The value of `Content-Length`, or 0 if it is missing or not a number."""
    text = headers.get("content-length", "0")
    return int(text) if text.isdecimal() and len(text) <= MAX_LENGTH_DIGITS else 0


async def read_body(
    receive: Receive,
    max_body_bytes: int,
    timeout_seconds: float,
    reserve: Callable[[int], None] = lambda _: None,
) -> bytes:
    """Read a whole body.

    Args:
        receive: The ASGI channel.
        max_body_bytes: The limit; nothing is read past the chunk that exceeds it.
        timeout_seconds: Time for the whole body.
        reserve: Called with the length of each chunk before the next is read; may raise.

    Raises:
        TooLargeError: The body is larger than the limit.
        BodyTimeoutError: The body did not arrive in time.
        ClientDisconnectedError: The client left before the end of the body.
    """
    chunks, length, more = [], 0, True
    try:
        async with asyncio.timeout(timeout_seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnectedError
                chunk, more = message.get("body", b""), message.get("more_body", False)
                length += len(chunk)
                if length > max_body_bytes:
                    raise _body_too_large(max_body_bytes, f"{length:,} bytes arrived")
                reserve(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise BodyTimeoutError(
            f"the body did not arrive within {timeout_seconds:g} s: {length:,} bytes arrived"
        ) from None
    return b"".join(chunks)


def _body_too_large(max_body_bytes: int, evidence: str) -> TooLargeError:
    return TooLargeError(
        f"the request body is larger than the limit of {max_body_bytes:,} bytes: {evidence}"
    )


async def parse_body(
    headers: Mapping[str, str], body: bytes, limits: BodyLimits, reserve: Callable[[int], None]
) -> RequestImages:
    """Split a body into images, in a thread if it is an archive, a large form or large JSON.

    Args:
        headers: By lower-case name.
        body: The whole body.
        limits: Limits of the request.
        reserve: Called with the bytes that an archive takes beside the body; may raise.

    Raises:
        ServiceError, ImageError: See `read_images`.
    """
    kind = find_body_kind(headers, body)
    if kind is BodyKind.ZIP and body:
        archive = await asyncio.to_thread(ZipBody, body, limits.max_images, limits.max_body_bytes)
        reserve(archive.total_bytes)
        return _check_any(await asyncio.to_thread(archive.read))
    if len(body) <= INLINE_BYTES or kind is BodyKind.IMAGE:
        return read_images(headers, body, limits.max_images, kind)
    return await asyncio.to_thread(read_images, headers, body, limits.max_images, kind)


def read_images(
    headers: Mapping[str, str], body: bytes, max_images: int, kind: BodyKind
) -> RequestImages:
    """Split a body that is no archive into encoded images, in order.

    An invalid image is replaced by its error.

    Raises:
        BadRequestError: The body is empty, malformed or without images.
        ImageError: The body was damaged by `curl -d`.
        TooLargeError: There are more than `max_images` images.
        UnsupportedMediaError: The media type is not supported.
    """
    if not body:
        raise BadRequestError(
            "the body is empty: send an image, for example curl --data-binary @photo.jpg",
            code="empty_body",
        )
    match kind:
        case BodyKind.IMAGE:
            if _may_be_stripped(headers, body):
                _check_not_stripped(body)
            return RequestImages([body])
        case BodyKind.JSON:
            found = RequestImages(read_json(body, max_images))
        case BodyKind.FORM:
            found = _read_multipart(headers["content-type"], body, max_images)
        case BodyKind.ZIP | BodyKind.UNSUPPORTED:
            raise UnsupportedMediaError(
                f"the media type {shorten(_media_type(headers))!r} is not supported: send a raw "
                "image, multipart/form-data with files, application/json or application/zip"
            )
    return _check_any(found)


def _check_any(found: RequestImages) -> RequestImages:
    if not found.images:
        raise BadRequestError("the request must have at least one image", code="no_images")
    return found


def find_body_kind(headers: Mapping[str, str], body: bytes) -> BodyKind:
    """How a body is read.

    One that starts like an image, an archive or JSON is treated as such, whatever its media type:
    by default, curl labels every body as a form.
    """
    if sniff(body):
        return BodyKind.IMAGE
    media_type = _media_type(headers)
    if media_type in ZIP_TYPES or starts_like_zip(body):
        return BodyKind.ZIP
    if media_type == "multipart/form-data":
        return BodyKind.FORM
    if media_type == "application/json" or starts_like_json(body):
        return BodyKind.JSON
    raw = media_type in _RAW_TYPES or media_type.startswith("image/")
    return BodyKind.IMAGE if raw else BodyKind.UNSUPPORTED


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").split(";", 1)[0].strip().lower()


def _may_be_stripped(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether `curl -d` may have sent it: as a form, or as the media type of an -H option."""
    return _media_type(headers) == _URL_ENCODED or (len(body) >= 64 and not body.isascii())


def _check_not_stripped(body: bytes) -> None:
    """Detect a file that `curl -d @photo.jpg` has stripped of line breaks and NUL bytes.

    Base64 in one line has none either, but it was never an image.
    """
    if _BASE64.fullmatch(body, 0, 1024):
        return
    if not (b"\0" in body or b"\n" in body or b"\r" in body):
        kind: type[ImageError] = ImageCorruptError if sniff(body) else NotAnImageError
        raise kind(
            "the body has neither line breaks nor NUL bytes, and every image has some; curl -d "
            "removes them: use curl --data-binary @photo.jpg"
        )


def _read_multipart(content_type: str, body: bytes, max_images: int) -> RequestImages:
    found = RequestImages([])
    texts: list[str] = []
    try:
        boundary = find_boundary(content_type)
        if count_parts(body, boundary) - 1 > max_images + MAX_TEXT_FIELDS:
            raise _too_many_fields(max_images)
        for part in read_parts(body, boundary):
            image = _read_part(part)
            if image is None:
                texts.append(shorten(part.name, 40))
            else:
                found.images.append(image)
                found.names.append(shorten(part.file_name or part.name, MAX_NAME_LENGTH))
    except MultipartError as error:
        raise BadRequestError(
            f"malformed multipart body: {error}; send files, for example "
            f"curl -F {FIELD}=@photo.jpg",
            code="malformed_multipart",
        ) from None
    check_image_count(len(found.images), max_images)
    if len(texts) > MAX_TEXT_FIELDS:
        raise _too_many_fields(max_images)
    if texts and not found.images:
        raise BadRequestError(
            f"the form has no file, only the text {', '.join(texts[:3])}; send files, for example "
            f"curl -F {FIELD}=@photo.jpg",
            code="no_images",
        )
    return found


def _too_many_fields(max_images: int) -> TooLargeError:
    return TooLargeError(
        f"a form may have at most {max_images} images and {MAX_TEXT_FIELDS} text fields, and this "
        "one has more",
        code="too_many_images",
    )


def _read_part(part: Part) -> EncodedImage | None:
    """The image in a part, the error in its place, or None for a text field."""
    if part.is_file:
        return part.content or BadRequestError("the image is empty", code="empty_image")
    if part.is_file is None and (sniff(part.content) or not _is_text(part.content)):
        return part.content
    if part.is_file is None and part.name.removesuffix("[]") == FIELD:
        # Not skipped like other text: the images after it would get the wrong results.
        return BadRequestError(
            f"the field {FIELD} is text, not a file: send it with @, as in "
            f"curl -F {FIELD}=@photo.jpg",
            code="malformed_multipart",
        )
    return None


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
