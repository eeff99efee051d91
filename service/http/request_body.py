"""From the body of a request to encoded images: a raw image, multipart files, or JSON."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field as FormField
from python_multipart.multipart import File, FormParser, parse_options_header
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
from service.prediction.request import EncodedImage

FIELD: Final = "images"
MAX_LENGTH_DIGITS: Final = 19
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
    """The length that the headers announce; 0 if they do not, or not with a number."""
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


def read_images(headers: Mapping[str, str], body: bytes, max_images: int) -> list[EncodedImage]:
    """Split a body into encoded images, in order. The error of a single image takes its place.

    A body that starts like an image is one, whatever its media type: curl labels every body a form.

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
    media_type = headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if sniff(body) or media_type in _RAW_TYPES or media_type.startswith("image/"):
        return [body]
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


def _read_json(body: bytes, max_images: int) -> list[EncodedImage]:
    # Counted before parsing: millions of small items would become gigabytes of objects. None of
    # these characters occurs in base64.
    if sum(body.count(character) for character in (b"{", b"[", b",")) > 8 * (max_images + 8):
        _check_count(body.count(b'"b64"'), max_images)
        raise BadRequestError(
            f"{_EXPECTED_JSON}, got a body with far more items", code="malformed_json"
        )
    try:
        parsed = JsonBody.model_validate_json(body)
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
        data = base64.b64decode(text, validate=True)
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
    complete = False

    def on_file(file: File) -> None:
        if file.field_name != FIELD.encode():
            raise FormParserError(f"unexpected field {_name(file)!r}")
        _check_count(len(images) + 1, max_images)
        file.file_object.seek(0)
        images.append(file.file_object.read() or _empty_image())
        file.close()

    def on_field(field: FormField) -> None:
        raise FormParserError(f"the field {_name(field)!r} is not a file")

    def on_end() -> None:
        nonlocal complete
        complete = True

    try:
        parser = FormParser(
            "multipart/form-data",
            on_field,
            on_file,
            on_end=on_end,
            boundary=parse_options_header(content_type)[1].get(b"boundary"),
            # Parts stay in memory, as the body does: a read-only container has no disk.
            config={"MAX_MEMORY_FILE_SIZE": len(body) + 1},
        )
        parser.write(body)
        parser.finalize()
        if not complete:
            raise FormParserError("the closing boundary is missing")
    except (FormParserError, AssertionError, ValueError) as error:
        raise BadRequestError(
            f"malformed multipart body: {error}; "
            f"send files in fields named {FIELD!r}, for example curl -F {FIELD}=@photo.jpg",
            code="malformed_multipart",
        ) from None
    return images


def _name(part: File | FormField) -> str:
    return (part.field_name or b"").decode(errors="replace")


def _check_count(count: int, max_images: int) -> None:
    if count > max_images:
        raise TooLargeError(
            f"a request may have at most {max_images} images, got {count}", code="too_many_images"
        )
