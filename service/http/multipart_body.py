"""Read the files of a multipart form (RFC 7578) with `bytes.split`.

A parser that works byte by byte could spend seconds on a hostile body.
"""

import base64
import binascii
from collections.abc import Iterator
from typing import Final

from python_multipart.multipart import parse_options_header

MAX_PART_HEAD_BYTES: Final = 4096
_DISPOSITION: Final = b"content-disposition"
_ENCODING: Final = b"content-transfer-encoding"


class MultipartError(Exception):
    """The form is malformed; the message says how."""


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


def read_files(body: bytes, boundary: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield field name and content of each file. Raises MultipartError, also for other fields."""
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


def _read_part(part: bytes) -> tuple[str, bytes]:
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
    options = parse_options_header(headers.get(_DISPOSITION, b""))[1]
    if b"name" not in options:
        raise MultipartError("a part has no Content-Disposition with a name")
    name = options[b"name"].decode(errors="replace")
    if b"filename" not in options:
        raise MultipartError(f"the field {name!r} is not a file")
    return name, _decode(part[end + 4 :], headers.get(_ENCODING, b"binary").lower())


def _decode(content: bytes, encoding: bytes) -> bytes:
    if encoding in {b"binary", b"8bit", b"7bit"}:
        return content
    if encoding != b"base64":
        raise MultipartError("Content-Transfer-Encoding is not supported")
    try:
        return base64.b64decode(content)
    except binascii.Error:
        raise MultipartError("a part is not base64") from None
