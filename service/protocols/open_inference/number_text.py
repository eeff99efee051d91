"""Pixels as JSON text: long arrays of numbers, which a JSON parser would turn into objects.

The parser would hold Python's global lock for two seconds while it creates the objects of 40 MB,
and they would take 400 MB.
"""

import time
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.http.json_body import PAUSE_SECONDS
from service.protocols.open_inference.tensors import malformed

LONG_ARRAY_BYTES: Final = 16 * 1024
SLICE_BYTES: Final = 128 * 1024
MAX_KEYS: Final = 16
_KEY: Final = b'"data"'
_DIGITS: Final = b"0123456789"
_SPACES: Final = b" \t\r\n"
_NUMBER_TEXT: Final = _DIGITS + b"[]," + _SPACES


def cut_long_arrays(text: bytes) -> tuple[bytes, dict[str, NDArray[np.uint8]]]:
    r"""Replace each long array of numbers by `\u0001` and a number, under which it is returned.

    Only values of the first `MAX_KEYS` keys `data` are replaced; other text stays as it is.

    Raises:
        BadRequestError: A number in a long array is not from 0 to 255.
    """
    pieces, arrays = list[bytes](), dict[str, NDArray[np.uint8]]()
    kept = position = 0
    for _ in range(MAX_KEYS):
        position = text.find(_KEY, position)
        if position < 0:
            break
        position += len(_KEY)
        start = _skip_to_array(text, position)
        if start is None:
            continue
        end = _find_end(text, start)
        if end - start > LONG_ARRAY_BYTES:
            pieces.append(text[kept:start] + rb'"\u0001%d"' % len(arrays))
            arrays[f"\1{len(arrays)}"] = _parse_array(memoryview(text)[start:end])
            kept = end
        position = end
    return b"".join([*pieces, text[kept:]]), arrays


def _skip_to_array(text: bytes, position: int) -> int | None:
    """The position of the bracket after `:`, or None if something else follows."""
    head = text[position : position + 64].lstrip(_SPACES)
    value = head[1:].lstrip(_SPACES)
    if head[:1] != b":" or value[:1] != b"[":
        return None
    return text.index(b"[", position)


def _find_end(text: bytes, start: int) -> int:
    """The end of the text that only has whole numbers and brackets."""
    end = start
    while end < len(text):
        piece = text[end : end + SLICE_BYTES]
        others = piece.translate(None, _NUMBER_TEXT)
        if others:
            end += piece.index(others[:1])
            break
        end += len(piece)
        time.sleep(PAUSE_SECONDS)
    return start + len(text[start:end].rstrip(b"," + _SPACES))


def _parse_array(text: memoryview) -> NDArray[np.uint8]:
    parts, opened, commas = list[NDArray[np.uint8]](), 0, 0
    for piece in _slices(text):
        parts.append(_parse_numbers(piece))
        opened += piece.count(b"[") - piece.count(b"]")
        commas += piece.count(b",")
        time.sleep(PAUSE_SECONDS)
    numbers = np.concatenate(parts)
    if opened or commas != len(numbers) - 1:
        raise malformed("a list of `data` is malformed: brackets and commas do not match")
    return numbers


def _slices(text: memoryview) -> Iterator[bytes]:
    """Slices that end between two numbers."""
    start = 0
    while start < len(text):
        piece = bytes(text[start : start + SLICE_BYTES])
        if start + len(piece) < len(text):
            piece = piece.rstrip(_DIGITS) or piece
        yield piece
        start += len(piece)


def _parse_numbers(text: bytes) -> NDArray[np.uint8]:
    """The numbers of a text that has only digits, brackets, commas and spaces."""
    digits = np.frombuffer(b",,," + text + b",", np.uint8) - ord("0")  # others become 10 and more
    is_digit = digits < 10
    ends = np.flatnonzero(is_digit[:-1] & ~is_digit[1:])
    tens = is_digit[ends - 1]
    hundreds = tens & is_digit[ends - 2]
    numbers = digits[ends].astype(np.uint16)
    numbers += digits[ends - 1] * tens * np.uint16(10)
    numbers += digits[ends - 2] * hundreds * np.uint16(100)
    if (hundreds & is_digit[ends - 3]).any() or (numbers > 255).any():
        raise malformed("each number of `data` must be from 0 to 255 for the datatype UINT8")
    return numbers.astype(np.uint8)
