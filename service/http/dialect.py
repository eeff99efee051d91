"""What differs between the protocols that send prediction requests over HTTP.

`PredictEndpoint` does what they share: API key, lease, limits, admission, metrics and access log.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.engine.loaded_version import LoadedVersion
from service.engine.priority import Priority
from service.http.path_params import parse_version_number
from service.http.problem_details import Reply
from service.prediction.request import ImageOutcome, PredictRequest, RequestRecord


@dataclass(slots=True)  # not frozen: that would double the time to create one
class VersionTarget:
    """The model and version that a request names. None means the default."""

    model: str | None = None
    version: int | None = None
    alias: str | None = None


def path_target(path_params: Mapping[str, str], _: bytes = b"") -> VersionTarget:
    """The target of a request that names it only in its path.

    Raises:
        BadRequestError: The version is not a number.
    """
    version = path_params.get("version")
    number = None if version is None else parse_version_number(version)
    return VersionTarget(path_params.get("model"), number)


class Call(Protocol):
    """One prediction request on a leased version.

    Attributes:
        priority: As far as it is known before the body is read.
    """

    priority: Priority

    async def read(self, body: bytes, reserve: Callable[[int], None], /) -> PredictRequest:
        """Parse the body. Raises ServiceError or ImageError.

        Args:
            body: The whole body.
            reserve: Called with a number of bytes that the request takes besides its body. Raises
                OverloadedError if there is no memory for them.
        """

    async def write(self, request: PredictRequest, outcomes: Sequence[ImageOutcome]) -> Reply:
        """The response. Raises ServiceError or ImageError."""


class Dialect(Protocol):
    """A protocol. One instance serves all requests.

    Attributes:
        methods: The HTTP methods of its routes.
    """

    methods: Sequence[str]

    def match(self, path: str) -> Mapping[str, str] | None:
        """Return `model` and `version` of a path, as far as it has them; None if it is no route."""

    def target(self, path_params: Mapping[str, str], query_string: bytes) -> VersionTarget:
        """Return the model and version of a request. Raises ServiceError."""

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
