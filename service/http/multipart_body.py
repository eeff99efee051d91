"""Read the parts of a multipart form (RFC 7578) with `bytes.split`.

A parser that works byte by byte could spend seconds on a hostile body.
"""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from python_multipart.multipart import parse_options_header

MAX_PART_HEAD_BYTES: Final = 4096
_DISPOSITION: Final = b"content-disposition"
_ENCODING: Final = b"content-transfer-encoding"
_FILE_TYPES: Final = (b"image/", b"application/octet-stream", b"binary/octet-stream")


class MultipartError(Exception):
    """The form is malformed; the message says how."""


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form. `is_file` is None if its headers do not say whether it is a file."""

    name: str
    file_name: str
    content: bytes
    is_file: bool | None


def find_boundary(content_type: str) -> bytes:
    """Return the boundary in a `Content-Type` header. Raises MultipartError."""
    if len(content_type) > MAX_PART_HEAD_BYTES:
        raise MultipartError("the Content-Type header is too long")
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MultipartError("the Content-Type header names no boundary")
    return boundary


def count_parts(body: bytes, boundary: bytes) -> int:
    """Count the parts without parsing them. The result may be off by one."""
    return body.count(b"\r\n--" + boundary)


def read_parts(body: bytes, boundary: bytes) -> Iterator[Part]:
    """Yield each part. Raises MultipartError."""
    _, *parts = (body if body.startswith(b"\r\n") else b"\r\n" + body).split(b"\r\n--" + boundary)
    closed = False
    for part in parts:
        if closed:
            break
        closed = part.startswith(b"--")
        if not closed:
            yield _read_part(part)
    if not closed:
        raise MultipartError("the closing boundary is missing")


def _read_part(part: bytes) -> Part:
    start = part.find(b"\r\n", 0, MAX_PART_HEAD_BYTES)
    if start < 0 or part[:start].strip(b" \t"):
        raise MultipartError("a boundary is not at the end of its line")
    end = part.find(b"\r\n\r\n", start, MAX_PART_HEAD_BYTES)
    if end < 0:
        raise MultipartError(f"a part has no headers within {MAX_PART_HEAD_BYTES} bytes")
    headers = {}
    for line in part[start:end].split(b"\r\n")[1:]:
        header, colon, value = line.partition(b":")
        if not colon:
            raise MultipartError("a header of a part has no colon")
        headers[header.strip().lower()] = value.strip()
    disposition = headers.get(_DISPOSITION, b"")
    options = parse_options_header(disposition)[1]
    if b"name" not in options:
        raise MultipartError("a part has no Content-Disposition with a name")
    media_type = headers.get(b"content-type", b"").lower()
    named = b"filename" in options or b"filename*" in disposition.lower()  # RFC 5987
    is_file = True if named or media_type.startswith(_FILE_TYPES) else None
    content = _decode(part[end + 4 :], headers.get(_ENCODING, b"binary").lower())
    if not content and options.get(b"filename") == b"":
        is_file = False  # a browser's form without a chosen file
    name, file_name = (
        options.get(option, b"").decode(errors="replace") for option in (b"name", b"filename")
    )
    return Part(name, file_name, content, is_file)


def _decode(content: bytes, encoding: bytes) -> bytes:
    if encoding in {b"binary", b"8bit", b"7bit"}:
        return content
    if encoding != b"base64":
        raise MultipartError("Content-Transfer-Encoding is not supported")
    try:
        return base64.b64decode(content)
    except binascii.Error:
        raise MultipartError("a part is not base64") from None
