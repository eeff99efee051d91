"""Read a request body and split it into encoded images: raw image, multipart files or JSON."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Receive

from model_store.image_header import sniff
from model_store.validation import describe_validation_error
from service.errors import (
    BadRequestError,
    BodyTimeoutError,
    ClientDisconnectedError,
    TooLargeError,
    UnsupportedMediaError,
    shorten,
)
from service.http.multipart_body import MultipartError, count_parts, find_boundary, read_files
from service.prediction.request import EncodedImage

FIELD: Final = "images"
MAX_LENGTH_DIGITS: Final = 19
INLINE_BYTES: Final = 128 * 1024
"""Forms and JSON up to this size are parsed faster than they could be passed to a thread."""
_MAX_KEY_LENGTH: Final = 100
_BASE64_SLICE: Final = 1024 * 1024  # a multiple of 4
_RAW_TYPES: Final = (
    "",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "binary/octet-stream",
)
_EXPECTED_JSON: Final = 'expected {"images": [{"b64": "..."}]}'


class JsonImage(BaseModel):
    """An image in a JSON body."""

    model_config = ConfigDict(extra="forbid")

    b64: Annotated[
        str,
        Field(
            description="The encoded image in base64 (RFC 4648), or a `data:` URL.",
            json_schema_extra={"format": "byte"},
        ),
    ]


class JsonBody(BaseModel):
    """A JSON request body."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[list[JsonImage], Field(description="One or more images.")]


_FILE: Final = {"type": "string", "format": "binary"}
BODY_SCHEMAS: Final[Mapping[str, type[BaseModel] | dict[str, Any]]] = {
    "image/*": _FILE,
    "multipart/form-data": {
        "type": "object",
        "properties": {FIELD: {"type": "array", "items": _FILE}},
        "required": [FIELD],
    },
    "application/json": JsonBody,
}
"""The body of a prediction request by media type: a pydantic model or a JSON schema."""


def check_headers(headers: Mapping[str, str], max_body_bytes: int) -> None:
    """Reject a body by its headers, before it is read.

    Raises:
        TooLargeError: `Content-Length` exceeds `max_body_bytes`.
        UnsupportedMediaError: The body has a content coding.
    """
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
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
    headers: Mapping[str, str], body: bytes, max_images: int
) -> list[EncodedImage]:
    """Call `read_images`, in a thread if the body is a large form or large JSON."""
    if len(body) <= INLINE_BYTES or _is_raw_image(headers, body):
        return read_images(headers, body, max_images)
    return await asyncio.to_thread(read_images, headers, body, max_images)


def read_images(headers: Mapping[str, str], body: bytes, max_images: int) -> list[EncodedImage]:
    """Split a body into encoded images, in order. An invalid image is replaced by its error.

    A body that starts like an image is treated as one, whatever its media type: by default, curl
    labels every body as a form.

    Raises:
        BadRequestError: The body is empty, malformed or without images.
        TooLargeError: There are more than `max_images` images.
        UnsupportedMediaError: The media type is not supported.
    """
    if not body:
        raise BadRequestError(
            "the body is empty: send an image, for example curl --data-binary @photo.jpg",
            code="empty_body",
        )
    if _is_raw_image(headers, body):
        return [body]
    media_type = _media_type(headers)
    if media_type == "application/json":
        images = _read_json(body, max_images)
    elif media_type == "multipart/form-data":
        images = _read_multipart(headers["content-type"], body, max_images)
    else:
        raise UnsupportedMediaError(
            f"the media type {shorten(media_type)!r} is not supported: send a raw image, "
            f"multipart/form-data with {FIELD!r} files, or application/json"
        )
    if not images:
        raise BadRequestError(f"{FIELD!r} must have at least one image", code="no_images")
    return images


def _is_raw_image(headers: Mapping[str, str], body: bytes) -> bool:
    media_type = _media_type(headers)
    return bool(sniff(body)) or media_type in _RAW_TYPES or media_type.startswith("image/")


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").split(";", 1)[0].strip().lower()


def _keys(document: Any) -> Iterator[str]:
    """The keys of the document and of its images."""
    if isinstance(document, dict):
        yield from document
        images = document.get("images")
        for image in images if isinstance(images, list) else ():
            if isinstance(image, dict):
                yield from image


def _read_json(body: bytes, max_images: int) -> list[EncodedImage]:
    # Counted before parsing: millions of small items would become gigabytes of objects. None of
    # these characters occurs in base64.
    if sum(body.count(character) for character in (b"{", b"[", b",")) > 8 * (max_images + 8):
        _check_count(body.count(b'"b64"'), max_images)
        raise BadRequestError(
            f"{_EXPECTED_JSON}, got a body with far more items", code="malformed_json"
        )
    try:
        document = orjson.loads(body)  # pydantic would copy a key of megabytes into its message
    except ValueError as error:
        raise BadRequestError(f"{_EXPECTED_JSON}: {error}", code="malformed_json") from None
    if long := next((key for key in _keys(document) if len(key) > _MAX_KEY_LENGTH), None):
        detail = f"{_EXPECTED_JSON}, got the key {shorten(long)!r}"
        raise BadRequestError(detail, code="malformed_json")
    try:
        parsed = JsonBody.model_validate(document)
    except ValidationError as error:
        raise BadRequestError(
            f"{_EXPECTED_JSON}: {describe_validation_error(error)}", code="malformed_json"
        ) from None
    _check_count(len(parsed.images), max_images)
    return [_decode_base64(image.b64) for image in parsed.images]


def _decode_base64(text: str) -> EncodedImage:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        # In slices, so that other threads can run in between. Only the last may have padding.
        if "=" in text[:-2]:
            raise ValueError("padding before the end")
        data = b"".join(
            base64.b64decode(text[start : start + _BASE64_SLICE], validate=True)
            for start in range(0, len(text), _BASE64_SLICE)
        )
    except (binascii.Error, ValueError):
        return BadRequestError(
            "b64 must be base64 as in RFC 4648: with padding, without line breaks",
            code="malformed_base64",
        )
    return data or _empty_image()


def _empty_image() -> BadRequestError:
    return BadRequestError("the image is empty", code="empty_image")


def _read_multipart(content_type: str, body: bytes, max_images: int) -> list[EncodedImage]:
    images: list[EncodedImage] = []
    try:
        boundary = find_boundary(content_type)
        _check_count(count_parts(body, boundary) - 1, max_images)
        for field, content in read_files(body, boundary):
            if field != FIELD:
                raise MultipartError(f"unexpected field {shorten(field)!r}")
            _check_count(len(images) + 1, max_images)
            images.append(content or _empty_image())
    except MultipartError as error:
        raise BadRequestError(
            f"malformed multipart body: {error}; "
            f"send files in fields named {FIELD!r}, for example curl -F {FIELD}=@photo.jpg",
            code="malformed_multipart",
        ) from None
    return images


def _check_count(count: int, max_images: int) -> None:
    if count > max_images:
        raise TooLargeError(
            f"a request may have at most {max_images} images, got {count}", code="too_many_images"
        )
