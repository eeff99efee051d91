"""Count the fields of an inference message before it is parsed.

Protobuf parses a message at once and keeps Python's global lock. 30 MB of empty tensors would stop
the event loop for a minute and take 3.4 GB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from service.protocols.open_inference.tensors import malformed

MAX_FIELDS: Final = 8192
"""Most fields of a message besides its images, including those of nested messages."""
MAX_PACKED_BYTES: Final = 64 * 1024
"""Most bytes of packed numbers that are not pixels, of all fields together."""
MAX_PIXEL_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of pixels in `uint_contents`: parsed, they take about ten times as much."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types
_FIXED_BYTES: Final = {_FIXED64: 8, _FIXED32: 4}


@dataclass(frozen=True)
class _Kind:
    """The fields of a message that hold messages, packed numbers or pixels, by their number."""

    messages: Mapping[int, "_Kind"] = field(default_factory=dict)
    packed: frozenset[int] = frozenset()
    pixels: int | None = None


_PARAMETER: Final = _Kind()
_CONTENTS: Final = _Kind(packed=frozenset({1, 2, 3, 5, 6, 7}), pixels=4)
_INPUT: Final = _Kind({4: _PARAMETER, 5: _CONTENTS}, frozenset({3}))
_OUTPUT: Final = _Kind({2: _PARAMETER})
_REQUEST: Final = _Kind({4: _PARAMETER, 5: _INPUT, 6: _OUTPUT})


def check_fields(message: bytes, max_images: int) -> None:
    """Check an encoded `ModelInferRequest`. Raises BadRequestError if parsing it is too costly."""
    waiting, fields = [(0, len(message), _REQUEST)], 0
    packed_bytes = pixel_bytes = 0
    while waiting:
        position, end, kind = waiting.pop()
        while position < end:
            fields += 1
            if fields > MAX_FIELDS + max_images:
                raise malformed(
                    f"the message has more than {MAX_FIELDS + max_images:,} fields; send the "
                    "content of tensors in `raw_input_contents`"
                )
            tag, position = _read_varint(message, position, end)
            number, wire_type = tag >> 3, tag & 7
            if wire_type == _VARINT:
                _, position = _read_varint(message, position, end)
            elif wire_type == _LENGTH:
                length, position = _read_varint(message, position, end)
                packed_bytes += length if number in kind.packed else 0
                if packed_bytes > MAX_PACKED_BYTES:
                    raise malformed(
                        f"the message has more than {MAX_PACKED_BYTES:,} bytes of numbers that "
                        "are neither pixels in `uint_contents` nor in `raw_input_contents`"
                    )
                pixel_bytes += length if number == kind.pixels else 0
                if pixel_bytes > MAX_PIXEL_BYTES:
                    raise malformed(
                        f"`uint_contents` has more than {MAX_PIXEL_BYTES:,} bytes; send pixels in "
                        "`raw_input_contents`"
                    )
                if number in kind.messages:
                    waiting.append((position, min(position + length, end), kind.messages[number]))
                position += length
            elif wire_type in _FIXED_BYTES:
                position += _FIXED_BYTES[wire_type]
            else:  # groups, which the protocol does not have
                raise malformed("the message is not a ModelInferRequest")


def _read_varint(message: bytes, position: int, end: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise malformed("the message is cut off, or not a ModelInferRequest")
