"""Read the images of a JSON body: base64 strings, which may have many megabytes."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Generic, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from model_store.validation import DeferredModel, describe_validation_error
from service.errors import BadRequestError, ImageUrlError, check_image_count
from service.http.base64_text import SLICE_BYTES, decode_base64
from service.prediction.request import EncodedImage

Body = TypeVar("Body", bound=BaseModel)
LONG_STRING_BYTES: Final = 64 * 1024
PAUSE_SECONDS: Final = 0.0001
"""Between slices, so that the event loop gets Python's global lock without waiting 5 ms for it."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_ESCAPE_BYTES: Final = len(rb"\u002B")
RED_PIXEL: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
)
_EXPECTED: Final = 'expected {"images": [{"b64": "..."}]}'


class JsonImage(DeferredModel):
    """An image in a JSON body."""

    model_config = ConfigDict(extra="forbid")

    b64: Annotated[
        str,
        Field(
            description="The encoded image in base64 (RFC 4648, also URL-safe and with line "
            "breaks), or a `data:` URL.",
            json_schema_extra={"format": "byte"},
        ),
    ]


class JsonImageUrl(DeferredModel):
    """An image in a JSON body that the service fetches."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[
        str,
        Field(
            description="An `https://` URL. Its host must be in `SERVICE_FETCH_ALLOW`.",
            json_schema_extra={"format": "uri"},
        ),
    ]


def _kind_of_image(value: object) -> str:
    if isinstance(value, str):
        return "text"
    return "url" if isinstance(value, dict) and "url" in value else "object"


class JsonBody(DeferredModel):
    """A JSON request body."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"images": [{"b64": RED_PIXEL}]}}
    )

    images: Annotated[
        list[
            Annotated[
                Annotated[JsonImage, Tag("object")]
                | Annotated[JsonImageUrl, Tag("url")]
                | Annotated[str, Field(json_schema_extra={"format": "byte"}), Tag("text")],
                Discriminator(_kind_of_image),
            ]
        ],
        Field(
            description="One or more images: objects with `b64` or `url`, or the base64 strings "
            "alone.",
            json_schema_extra={"minItems": 1},
        ),
    ]


def starts_like_json(body: bytes) -> bool:
    """Whether the first character is a brace or a bracket, as in no image format."""
    return body[:LONG_STRING_BYTES].removeprefix(BYTE_ORDER_MARK).lstrip()[:1] in {b"{", b"["}


@dataclass(frozen=True)
class JsonDocument(Generic[Body]):
    """A parsed body. Long strings in it are replaced by their names in `long_strings`."""

    content: Body
    long_strings: Mapping[str, memoryview]


def read_json(body: bytes, max_images: int) -> list[EncodedImage]:
    """Decode the images of a JSON body. Invalid base64 is replaced by its error.

    Raises:
        BadRequestError: The body is not the expected JSON.
        TooLargeError: There are more than `max_images` images.
    """
    document = load_json(body, max_images, JsonBody, _EXPECTED)
    images = document.content.images
    check_image_count(len(images), max_images)
    return [
        ImageUrlError(image.url)
        if isinstance(image, JsonImageUrl)
        else decode_image(image if isinstance(image, str) else image.b64, document.long_strings)
        for image in images
    ]


def load_json(body: bytes, max_images: int, model: type[Body], expected: str) -> JsonDocument[Body]:
    """Parse a JSON body with images in base64.

    Args:
        body: The whole body.
        max_images: Most images that it may have.
        model: What it must be.
        expected: Says that in error messages.

    Raises:
        BadRequestError: The body is not the expected JSON.
        TooLargeError: There are far more than `max_images` images.
    """
    text, long_strings = cut_long_strings(body, 4 * (max_images + 8))
    # Counted before parsing: millions of small items would become gigabytes of objects. None of
    # these characters occurs in base64.
    if sum(text.count(character) for character in (b"{", b"[", b",")) > 8 * (max_images + 8):
        check_image_count(text.count(b'"b64"') + text.count(b'"url"'), max_images)
        raise BadRequestError(f"{expected}, got a body with far more items", code="malformed_json")
    # Shells put the line breaks of `base64` into strings as they are, which JSON does not allow.
    text = text.removeprefix(BYTE_ORDER_MARK).translate(None, b"\r\n")
    try:
        document = orjson.loads(text)
    except ValueError as error:
        raise BadRequestError(f"{expected}: {error}", code="malformed_json") from None
    try:
        return JsonDocument(model.model_validate(document), long_strings)
    except ValidationError as error:
        raise BadRequestError(
            f"{expected}: {describe_validation_error(error)}", code="malformed_json"
        ) from None


def cut_long_strings(body: bytes, max_strings: int) -> tuple[bytes, dict[str, memoryview]]:
    r"""Replace each long string by `\u0000` and a number, under which it is returned.

    The parser would hold Python's global lock for 50 ms while it copies 30 MB, and the event loop
    would wait. A body that is not as expected is returned unchanged, for the parser to judge.
    """
    pieces, long_strings = list[bytes](), dict[str, memoryview]()
    kept = position = 0
    for _ in range(max_strings):
        start = body.find(b'"', position)
        if start < 0:
            return b"".join([*pieces, body[kept:]]), long_strings
        end = body.find(b'"', start + 1)
        if end < 0 or body[end - 1 : end] == b"\\":
            break
        if end - start > LONG_STRING_BYTES:
            pieces.append(body[kept : start + 1] + rb"\u0000%d" % len(long_strings))
            long_strings[f"\0{len(long_strings)}"] = memoryview(body)[start + 1 : end]
            kept = end
        position = end + 1
    return body, {}


def decode_image(text: str, long_strings: Mapping[str, memoryview]) -> EncodedImage:
    # A client that sends such a number itself gets one of its own strings.
    long = long_strings.get(text)
    slices = [text.encode()] if long is None else _slices(long)
    try:
        data = decode_base64(slices)
    except ValueError:
        return BadRequestError("b64 must be base64 as in RFC 4648", code="malformed_base64")
    return data or BadRequestError("the image is empty", code="empty_image")


def _slices(text: memoryview) -> Iterator[bytes]:
    """The string in slices, with its escapes resolved: some encoders write `/` and `+` as escapes.

    Raises:
        ValueError: An escape is invalid.
    """
    start = 0
    while start < len(text):
        if start:
            time.sleep(PAUSE_SECONDS)
        piece = bytes(text[start : start + SLICE_BYTES])
        if start + len(piece) < len(text):  # cut before an escape that may be incomplete
            escape = piece.rfind(b"\\", 1 - _ESCAPE_BYTES)
            piece = piece[:escape] if escape >= 0 else piece
        start += len(piece)
        if b"\\" in piece:
            piece = orjson.loads(b'"%b"' % piece.translate(None, b"\r\n")).encode()
        yield piece
