"""The headers of a prediction response that say which version answered, and how long it took."""

from functools import lru_cache
from typing import Final

from service.http.problem_details import Reply
from service.prediction.request import RequestRecord

RESPONSE_HEADERS: Final = {
    "Model-Name": "The model that answered. Errors have it once the version is known.",
    "Model-Version": "The number of its version.",
    "Model-Digest": "`sha256:` and the digest of its manifest, which seals all its files.",
    "Server-Timing": "Milliseconds of the stages receive, decode, queue, infer and total.",
    "X-Request-Id": "The id of the request in the log: the one that the client sent, or a new one.",
    "traceparent": "As the client sent it, if it is valid (W3C Trace Context); with tracing, "
    "of the span of this request.",
}
"""The headers of every response of a prediction route, as the OpenAPI document describes them."""
_METRIC_NAMES: Final = {"inference": "infer"}


def encode_headers(reply: Reply) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", reply.media_type.encode()),
        (b"content-length", b"%d" % len(reply.body)),
        *(
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in reply.headers.items()
        ),
    ]


def record_headers(record: RequestRecord, total_seconds: float) -> list[tuple[bytes, bytes]]:
    """Model, version and digest if the request has leased a version, and `Server-Timing`.

    Args:
        record: What is known about the request; after an error it is incomplete.
        total_seconds: Time since the start of the request.
    """
    milliseconds = [seconds * 1e3 for seconds in record.seconds.values()]
    stages = _timing_format(tuple(record.seconds)) % (*milliseconds, total_seconds * 1e3)
    timing = (b"server-timing", stages.encode())
    if not record.digest:
        return [timing]
    return [*_version_headers(record.model, record.version, record.digest), timing]


@lru_cache
def _timing_format(stages: tuple[str, ...]) -> str:
    return ", ".join(f"{_METRIC_NAMES.get(stage, stage)};dur=%.3f" for stage in (*stages, "total"))


@lru_cache(maxsize=1024)
def _version_headers(model: str, version: int, digest: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"model-name", model.encode()),
        (b"model-version", b"%d" % version),
        (b"model-digest", f"sha256:{digest}".encode()),
    )
