"""From a request's body to encoded images: a raw image, multipart parts, or base64 in JSON."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field as FormField
from python_multipart.multipart import File, FormParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from model_store.preprocessing import sniff
from service.errors import (
    BadRequestError,
    BodyTimeoutError,
    ServiceError,
    TooLargeError,
    UnsupportedMediaError,
)

FIELD: Final = "images"
Encoded = bytes | ServiceError
"""An encoded image, or why there is none in its place."""

_RAW_TYPES: Final = (
    "",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "binary/octet-stream",
)


class JsonImage(BaseModel):
    """An image in a JSON body."""

    model_config = ConfigDict(extra="forbid")

    b64: Annotated[
        str, Field(description="The encoded image's bytes in base64; a data: URL is taken too.")
    ]


class JsonBody(BaseModel):
    """A JSON request body."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[list[JsonImage], Field(description="One or more images.")]


def check_headers(headers: Mapping[str, str], max_body_bytes: int) -> None:
    """Raise TooLargeError, UnsupportedMediaError before the body is read."""
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaError(
            "send the body as it is, without Content-Encoding", code="unsupported_encoding"
        )
    announced = headers.get("content-length", "0")
    length = int(announced) if announced.isdecimal() else 0
    if length > max_body_bytes:
        raise TooLargeError(
            f"the body has {length:,} bytes; at most {max_body_bytes:,} are allowed"
        )


async def read_body(
    receive: Receive,
    max_body_bytes: int,
    timeout_seconds: float,
    hold: Callable[[int], None] = lambda _: None,
) -> bytes:
    """The whole body.

    `hold` is told of each chunk's bytes before the next is read, and may refuse them. Raises TooLargeError as soon as it is over
    the limit, BodyTimeoutError for a slow sender, BadRequestError for an empty one, ClientDisconnect where it leaves.
    """
    chunks, length, more = [], 0, True
    try:
        async with asyncio.timeout(timeout_seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk, more = message.get("body", b""), message.get("more_body", False)
                length += len(chunk)
                if length > max_body_bytes:
                    raise TooLargeError(
                        f"the body has more than {max_body_bytes:,} bytes, which are allowed"
                    )
                hold(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise BodyTimeoutError(
            f"the body did not arrive within {timeout_seconds:g} s ({length:,} bytes came)"
        ) from None
    if not length:
        raise BadRequestError(
            "the body is empty; send an image: curl --data-binary @photo.jpg …", code="empty_body"
        )
    return b"".join(chunks) if len(chunks) > 1 else chunks[0]


def read_images(headers: Mapping[str, str], body: bytes, max_images: int) -> list[Encoded]:
    """The encoded images of a body, in order. What is wrong with one image stands in its place.

    A body that begins like an image is one, whatever its media type says: curl calls every body a form. Raises
    BadRequestError, TooLargeError, UnsupportedMediaError for the request as a whole.
    """
    media_type = headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if sniff(body) or media_type in _RAW_TYPES or media_type.startswith("image/"):
        return [body]
    if media_type == "application/json":
        images = _read_json(body, max_images)
    elif media_type == "multipart/form-data":
        images = _read_multipart(headers["content-type"], body, max_images)
    else:
        raise UnsupportedMediaError(
            f"{media_type!r} is not taken; send an image as it is, multipart/form-data with {FIELD!r} fields, or application/json"
        )
    if not images:
        raise BadRequestError(
            f"there is no image in the request; {FIELD!r} is empty", code="no_images"
        )
    return images


def _read_json(body: bytes, max_images: int) -> list[Encoded]:
    # Counted before it is parsed: millions of small items would cost gigabytes, and base64 holds none of these marks.
    if sum(body.count(mark) for mark in (b"{", b"[", b",")) > 8 * (max_images + 8):
        _check_count(body.count(b'"b64"'), max_images)
        raise BadRequestError(
            'expected {"images": [{"b64": "…"}]}; the body holds far more items than that',
            code="malformed_json",
        )
    try:
        parsed = JsonBody.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise BadRequestError(
            f'expected {{"images": [{{"b64": "…"}}]}}; {reason}', code="malformed_json"
        ) from None
    _check_count(len(parsed.images), max_images)
    return [_decode_base64(image.b64) for image in parsed.images]


def _decode_base64(text: str) -> Encoded:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return BadRequestError(
            "b64 is not base64 (RFC 4648, with padding, no line breaks)", code="malformed_base64"
        )
    return data or BadRequestError("this image is empty", code="empty_image")


def _read_multipart(content_type: str, body: bytes, max_images: int) -> list[Encoded]:
    images: list[Encoded] = []
    ends: list[bool] = []

    def on_file(file: File) -> None:
        if file.field_name != FIELD.encode():
            raise FormParserError(
                f"there is a field {(file.field_name or b'').decode(errors='replace')!r}"
            )
        _check_count(len(images) + 1, max_images)
        file.file_object.seek(0)
        images.append(
            file.file_object.read() or BadRequestError("this image is empty", code="empty_image")
        )
        file.close()

    def on_field(field: FormField) -> None:
        raise FormParserError(
            f"the field {(field.field_name or b'').decode(errors='replace')!r} is no file"
        )

    try:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        parser = FormParser(
            "multipart/form-data",
            on_field,
            on_file,
            on_end=lambda: ends.append(True),
            boundary=boundary,
            config={
                "MAX_MEMORY_FILE_SIZE": len(body) + 1
            },  # the body is in memory already; a read-only container has no disk
        )
        parser.write(body)
        parser.finalize()
        if not ends:
            raise FormParserError("it ends before its closing boundary")
    except (FormParserError, AssertionError, ValueError) as error:
        hint = f"send files in fields named {FIELD!r}: curl -F {FIELD}=@photo.jpg …"
        raise BadRequestError(
            f"this multipart body can not be read: {error}; {hint}", code="malformed_multipart"
        ) from None
    return images


def _check_count(count: int, max_images: int) -> None:
    if count > max_images:
        raise TooLargeError(
            f"{count} images in one request; at most {max_images} are allowed",
            code="too_many_images",
        )
