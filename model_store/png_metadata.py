"""The metadata of a PNG without its pixels.

Pillow decodes all pixels to find a rotation that may be stored after them. That takes 200 MB for
an image of 50 Mi pixels.
"""

import struct
import zlib
from typing import Final

_SIGNATURE_BYTES: Final = 8
_FRAME_BYTES: Final = 12  # length, type and CRC of a chunk
_ANIMATION: Final = frozenset({b"acTL", b"fcTL", b"fdAT"})
_ONE_PIXEL: Final = zlib.compress(bytes(9))  # a filter byte and up to 64 bits


def without_pixels(png: bytes) -> bytes:
    """A PNG of one pixel with the other chunks of `png`, as far as Pillow reads them."""
    pieces, position, animated, has_pixels = (
        [png[:_SIGNATURE_BYTES]],
        _SIGNATURE_BYTES,
        False,
        False,
    )
    while position + _FRAME_BYTES <= len(png):
        length, kind = struct.unpack_from(">I4s", png, position)
        end = position + _FRAME_BYTES + length
        if kind == b"IHDR":  # width, height, then depth, colour type, compression and filter
            pieces.append(
                _chunk(kind, struct.pack(">II", 1, 1) + png[position + 16 : position + 20] + b"\0")
            )
        elif kind == b"IDAT":
            if not has_pixels:
                pieces.append(_chunk(kind, _ONE_PIXEL))
            has_pixels = True
        elif kind == b"fcTL" and animated and has_pixels:  # Pillow stops at the second frame
            pieces.append(_chunk(b"IEND", b""))
            break
        elif kind in _ANIMATION:
            animated = animated or kind == b"acTL"
        else:
            pieces.append(png[position:end])
        position = end
    return b"".join(pieces)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
