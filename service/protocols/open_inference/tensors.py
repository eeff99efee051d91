"""Tensors as the protocol sends them: datatypes, shapes and bytes."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.errors import BadRequestError

BYTES: Final = "BYTES"
UINT8: Final = "UINT8"
FP32: Final = "FP32"
MALFORMED: Final = "malformed_tensor"
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class InputTensor:
    """A tensor of a request.

    Attributes:
        name: Name of the input.
        datatype: As the client wrote it; it may be unknown.
        shape: Sizes of the dimensions.
        raw: The content in the binary form of the protocol, if the client sent that.
        values: The elements otherwise, in row-major order.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    raw: memoryview | None = None
    values: Sequence[Any] | NDArray[np.uint8] = ()


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor of a response: float32 `[images, …]`, or `BYTES` as nested lists of text."""

    name: str
    datatype: str
    shape: Sequence[int]
    rows: Sequence[NDArray[np.float32]] | Sequence[Sequence[str]]

    def to_bytes(self) -> bytes:
        if self.datatype == BYTES:
            return encode_bytes(text.encode() for row in self.rows for text in row)
        return np.asarray(self.rows, "<f4").tobytes()


def malformed(message: str) -> BadRequestError:
    return BadRequestError(message, code=MALFORMED)


def encode_bytes(elements: Iterable[bytes]) -> bytes:
    """Elements of a `BYTES` tensor: each follows its length, 4 bytes little-endian."""
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def decode_bytes(name: str, content: memoryview, count: int) -> list[bytes]:
    """Split the content of a `BYTES` tensor into `count` elements. Raises BadRequestError."""
    elements, start = list[bytes](), 0
    while start < len(content) and len(elements) < count:
        if len(content) - start < _LENGTH.size:
            raise malformed(
                f"input {name!r}: element {len(elements)} must start with its length in 4 bytes, "
                f"and {len(content) - start} remain"
            )
        (length,) = _LENGTH.unpack_from(content, start)
        start += _LENGTH.size
        if length > len(content) - start:
            raise malformed(
                f"input {name!r}: element {len(elements)} states a length of {length:,} bytes, "
                f"and {len(content) - start:,} remain"
            )
        elements.append(bytes(content[start : start + length]))
        start += length
    if len(elements) < count or start < len(content):
        raise malformed(
            f"input {name!r}: the shape states {count} elements, and the content has "
            f"{len(elements)} and {len(content) - start:,} bytes after them"
        )
    return elements
