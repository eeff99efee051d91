"""The ids of a request: the client's or a new one, and the trace that it belongs to."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

REQUEST_ID: Final = "x-request-id"
TRACEPARENT: Final = "traceparent"
_ENCODED_NAMES: Final = {name.encode(): name for name in (REQUEST_ID, TRACEPARENT)}
_ACCEPTED_ID: Final = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, 3.2.2: version, trace id, id of the caller's span, flags."""


@dataclass(slots=True)  # not frozen: that would double the time to create one
class RequestIds:
    """The ids in the log line and in the headers of a response.

    Attributes:
        request_id: The id that the client sent if it is safe to log, otherwise a new one.
        traceparent: The header of the client if it is valid, otherwise empty.
    """

    request_id: str
    traceparent: str = ""

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        """The ids of a request by its headers, whose names are in lower case."""
        request_id, traceparent = headers.get(REQUEST_ID), headers.get(TRACEPARENT)
        if request_id is None or not _ACCEPTED_ID.fullmatch(request_id):
            # It need not be secret, and os.urandom would release the GIL.
            request_id = f"{random.getrandbits(64):016x}"
        if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
            traceparent = ""
        return cls(request_id, traceparent)

    @classmethod
    def of_encoded(cls, headers: Mapping[bytes, bytes]) -> Self:
        """As `of`, for the headers as they arrived."""
        names = headers.keys() & _ENCODED_NAMES.keys()
        return cls.of({_ENCODED_NAMES[name]: headers[name].decode("latin-1") for name in names})

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", self.request_id.encode())]
        if self.traceparent:
            headers.append((b"traceparent", self.traceparent.encode()))
        return headers

    @property
    def trace_id(self) -> str:
        """The id of the trace, or empty."""
        return self.traceparent[3:35]
