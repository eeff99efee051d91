"""Decode base64 as clients send it: with line breaks, URL-safe or without padding (RFC 4648)."""

from binascii import a2b_base64
from collections.abc import Iterable
from typing import Final

SLICE_BYTES: Final = 256 * 1024
"""Decode longer text in slices of about this size, so that other threads run in between."""
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_WHITESPACE: Final = b" \t\r\n"


def decode_base64(slices: Iterable[bytes]) -> bytes:
    """Decode text that arrives in slices of any length. A `data:` URL gives its content.

    Raises:
        ValueError: The text is not base64, or characters follow its padding.
    """
    decoded, rest, ended = [], b"", False
    for number, piece in enumerate(slices):
        text = piece.partition(b",")[2] if not number and piece[:5].lower() == b"data:" else piece
        text = rest + text.translate(_TO_STANDARD, _WHITESPACE)
        if ended and text:
            raise ValueError("text after the padding")
        whole = len(text) - len(text) % 4
        decoded.append(a2b_base64(text[:whole], strict_mode=True))
        ended, rest = ended or text[:whole].endswith(b"="), text[whole:]
    decoded.append(a2b_base64(rest + b"=" * (-len(rest) % 4), strict_mode=True))
    return b"".join(decoded)
