"""The ids of a request: the client's or a new one, and the trace that it belongs to."""

import random
import re
from dataclasses import dataclass
from typing import Final, Self

from starlette.types import Scope

REQUEST_ID: Final = b"x-request-id"
TRACEPARENT: Final = b"traceparent"
_ACCEPTED_ID: Final = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, 3.2.2: version, trace id, id of the caller's span, flags."""


@dataclass(slots=True)  # not frozen: that would double the time to create one
class RequestIds:
    """The ids in the log line and in the headers of a response.

    Attributes:
        request_id: The id that the client sent if it is safe to log, otherwise a new one.
        traceparent: The header of the client if it is valid, otherwise empty.
    """

    request_id: bytes
    traceparent: bytes = b""

    @classmethod
    def of(cls, scope: Scope) -> Self:
        request_id = traceparent = b""
        for name, value in scope["headers"]:
            if name == REQUEST_ID and _ACCEPTED_ID.fullmatch(value):
                request_id = request_id or bytes(value)
            elif name == TRACEPARENT and _TRACEPARENT.fullmatch(value):
                traceparent = bytes(value)
        # A new id need not be secret, and os.urandom would release the GIL.
        return cls(request_id or b"%016x" % random.getrandbits(64), traceparent)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(REQUEST_ID, self.request_id)]
        return [*headers, (TRACEPARENT, self.traceparent)] if self.traceparent else headers

    @property
    def fields(self) -> dict[str, str]:
        """`id`, and `trace` with the trace id if there is one."""
        fields = {"id": self.request_id.decode()}
        return fields | {"trace": self.traceparent[3:35].decode()} if self.traceparent else fields
