"""What differs between the protocols that send prediction requests over HTTP.

`PredictEndpoint` does what they share: API key, lease, limits, admission, metrics and access log.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from service.engine.loaded_version import LoadedVersion
from service.engine.priority import Priority
from service.http.problem_details import Reply
from service.prediction.request import ImageOutcome, PredictRequest, RequestRecord


class Call(Protocol):
    """One prediction request on a leased version.

    Attributes:
        priority: As far as it is known before the body is read.
    """

    priority: Priority

    async def read(self, body: bytes) -> PredictRequest:
        """Parse the body. Raises ServiceError or ImageError."""

    async def write(self, request: PredictRequest, outcomes: Sequence[ImageOutcome]) -> Reply:
        """The response. Raises ServiceError or ImageError."""


class Dialect(Protocol):
    """A protocol. One instance serves all requests."""

    def match(self, path: str) -> Mapping[str, str] | None:
        """Return `model` and `version` of a path, as far as it has them; None if it is no route."""

    def start(
        self,
        loaded: LoadedVersion,
        headers: Mapping[str, str],
        query_string: bytes,
        record: RequestRecord,
    ) -> Call:
        """Check what arrives before the body. Raises ServiceError."""

    def reply_to(self, error: Exception, request_line: str) -> Reply:
        """Turn any error into a response."""
