"""The body of an inference request over HTTP: JSON, JSON with binary tensors, or bytes alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import orjson
from pydantic import ValidationError

from model_store.image_header import sniff
from model_store.manifest import MODEL_INPUT
from model_store.preprocessing import Pixels
from model_store.validation import describe_validation_error, to_whole_number
from service.engine.loaded_version import LoadedVersion
from service.errors import BadRequestError, shorten
from service.http.json_body import BYTE_ORDER_MARK, cut_long_strings, decode_image
from service.prediction.request import EncodedImage
from service.protocols.open_inference.images import pixel_shape, read_images
from service.protocols.open_inference.infer_request import InferRequest
from service.protocols.open_inference.number_text import cut_long_arrays
from service.protocols.open_inference.parameters import (
    read_flag,
    read_outputs,
    read_schedule,
    too_long_id,
)
from service.protocols.open_inference.schemas import InferBody, RequestInput
from service.protocols.open_inference.tensors import BYTES, InputTensor, malformed

JSON_LENGTH_HEADER: Final = "inference-header-content-length"
BINARY_SIZE: Final = "binary_data_size"
MAX_REPEATED_BYTES: Final = 2000
"""JSON before binary tensors is cached after parsing, unless it is longer than this."""
MAX_JSON_ITEMS: Final = 64 * 1024
"""Most items of the JSON beside long arrays; parsing more would block the event loop."""


@dataclass(frozen=True)
class _ParsedJson:
    """The JSON of a request. Names replace long arrays and strings, which are kept apart."""

    document: InferBody
    arrays: Mapping[str, Any]
    long_strings: Mapping[str, memoryview]


def read_infer_request(
    headers: Mapping[str, str], body: bytes, loaded: LoadedVersion, max_images: int
) -> InferRequest:
    """Parse a body.

    Raises:
        BadRequestError: The body is malformed, or does not fit the version.
        TooLargeError: There are more than `max_images` images.
    """
    length = json_length(headers, len(body))
    if length == 0:
        return _read_bytes_alone(body, loaded, max_images)
    text = body[:length].removeprefix(BYTE_ORDER_MARK)
    document, inputs = _read_json(text, memoryview(body)[length:], max_images)
    binary = read_flag(document.parameters, "binary_data_output", default=False)
    requested = [(output.name, output.parameters) for output in document.outputs or ()]
    return InferRequest(
        read_images(inputs, loaded, max_images),
        read_outputs(requested, loaded, binary=binary),
        read_schedule(document.parameters),
        document.id,
    )


def json_length(headers: Mapping[str, str], body_length: int) -> int:
    """The length of the JSON: all of the body unless the header says otherwise.

    Raises:
        BadRequestError: The body is empty, or the header is invalid.
    """
    text = headers.get(JSON_LENGTH_HEADER)
    if text is None:
        if not body_length:
            raise BadRequestError("the body is empty: send an inference request", code="empty_body")
        return body_length
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise malformed(
            f"Inference-Header-Content-Length must be a whole number, got {shorten(digits, 40)!r}"
        )
    if int(digits) > body_length:
        raise malformed(
            f"Inference-Header-Content-Length is {int(digits):,}, and the body has "
            f"{body_length:,} bytes"
        )
    return int(digits)


def _read_bytes_alone(body: bytes, loaded: LoadedVersion, max_images: int) -> InferRequest:
    """A raw binary request: one encoded image, or pixels. All outputs are binary."""
    sides = pixel_shape(loaded)
    size = sides[0] * sides[1] * sides[2]
    if not body:
        raise BadRequestError("the body is empty: send an image or pixels", code="empty_body")
    images: Sequence[EncodedImage] | Pixels = [body]
    if not sniff(body):
        if len(body) % size:
            raise malformed(
                "the body must be one encoded image, or pixels of "
                f"[n, {', '.join(map(str, sides))}], which are a multiple of {size:,} bytes; "
                f"got {len(body):,} bytes"
            )
        shape = [len(body) // size, *sides]
        tensor = InputTensor(MODEL_INPUT, "UINT8", shape, memoryview(body))
        images = read_images([tensor], loaded, max_images)
    return InferRequest(images, read_outputs(None, loaded, binary=True))


def _read_json(
    text: bytes, content: memoryview, max_images: int
) -> tuple[InferBody, list[InputTensor]]:
    repeats = bool(content) and len(text) <= MAX_REPEATED_BYTES
    parsed = (_parse_again if repeats else _parse)(text, max_images)
    document, arrays, long_strings = parsed.document, parsed.arrays, parsed.long_strings
    tensors, position = list[InputTensor](), 0
    for each in document.inputs:
        raw = _take_raw(each, content[position:])
        position += 0 if raw is None else len(raw)
        values = () if raw is not None else _find_values(each, arrays, long_strings)
        tensors.append(InputTensor(each.name, each.datatype, each.shape, raw, values))
    if position != len(content):
        raise malformed(
            f"{len(content):,} bytes follow the JSON, and `{BINARY_SIZE}` of the inputs states "
            f"{position:,}"
        )
    return document, tensors


def _parse(text: bytes, max_images: int) -> _ParsedJson:
    text, arrays = cut_long_arrays(text)
    text, long_strings = cut_long_strings(text, 16 * (max_images + 8))
    if sum(text.count(character) for character in (b"{", b"[", b",")) > MAX_JSON_ITEMS:
        raise BadRequestError(
            f"the JSON of the request has more than {MAX_JSON_ITEMS:,} items beside pixels; send "
            "tensors as binary data",
            code="malformed_json",
        )
    try:
        document = InferBody.model_validate(orjson.loads(text))
    except ValidationError as error:
        reason = describe_validation_error(error)
        raise BadRequestError(f"invalid request: {reason}", code="malformed_json") from None
    except ValueError as error:
        raise BadRequestError(f"the request is not JSON: {error}", code="malformed_json") from None
    if document.id in long_strings:
        raise too_long_id()
    return _ParsedJson(document, arrays, long_strings)


_parse_again = lru_cache(maxsize=64)(_parse)
"""Parses JSON before binary tensors. It is cached: a program's requests usually repeat it."""


def _take_raw(tensor: RequestInput, content: memoryview) -> memoryview | None:
    """The bytes of an input at the start of `content`, or None if its values are in the JSON."""
    size = to_whole_number(tensor.parameters.get(BINARY_SIZE))
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise malformed(
            f"`{BINARY_SIZE}` of {shorten(tensor.name, 40)!r} must be a whole number of at least "
            f"0, got {shorten(repr(size), 40)}"
        )
    if size > len(content):
        raise malformed(
            f"`{BINARY_SIZE}` of {shorten(tensor.name, 40)!r} is {size:,}, and "
            f"{len(content):,} bytes remain"
        )
    if tensor.data is not None:
        raise malformed(f"input {shorten(tensor.name, 40)!r} has both `data` and `{BINARY_SIZE}`")
    return content[:size]


def _find_values(
    tensor: RequestInput, arrays: Mapping[str, Any], long_strings: Mapping[str, memoryview]
) -> Sequence[Any]:
    data = tensor.data
    if isinstance(data, str) and data in arrays:
        found: Sequence[Any] = arrays[data]
        if tensor.datatype == BYTES:
            raise malformed(f"`data` must be a list of text for the datatype {BYTES}")
        return found
    if not isinstance(data, list):
        raise malformed(
            f"input {shorten(tensor.name, 40)!r} must have `data`, a list, or "
            f"`{BINARY_SIZE}` (shared memory is not supported)"
        )
    if tensor.datatype != BYTES:
        return data
    flat = [text for each in data for text in (each if isinstance(each, list) else [each])]
    if not all(isinstance(text, str) for text in flat):
        raise malformed(
            f"each element of `data` must be text for the datatype {BYTES}: an image in base64"
        )
    return [decode_image(text, long_strings) for text in flat]
