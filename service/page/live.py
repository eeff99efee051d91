"""The stream of counters behind the live view, as server-sent events (HTML, section 9.2)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson
from fastapi import Depends, FastAPI
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.http.api_keys import ApiKeys
from service.http.metrics import SECONDS_BUCKETS
from service.http.service_counts import LiveCounts, ServiceCounts
from service.prediction.admission import overloaded
from service.versions.registry import Registry

INTERVAL_SECONDS: Final = 1.0
MAX_STREAMS: Final = 50
"""Most streams at once. Usually they need no key, and each one costs time every second."""
_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx would buffer


class LimitedStreams:
    """Counts the streams that are open, and rejects those beyond `MAX_STREAMS`."""

    def __init__(self) -> None:
        self._open = 0

    def check(self) -> None:
        """Raise OverloadedError if no further stream may be opened."""
        if self._open >= MAX_STREAMS:
            raise overloaded(
                f"at most {MAX_STREAMS} live views may be open at the same time",
                reason="live_views",
            )

    def __enter__(self) -> None:
        self._open += 1

    def __exit__(self, *_: object) -> None:
        self._open -= 1


class CountedResponse(StreamingResponse):
    """Counts as an open stream until it ends or its client leaves."""

    def __init__(self, events: AsyncIterator[bytes], streams: LimitedStreams) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_HEADERS)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams:
            await super().__call__(scope, receive, send)


def add_live_route(app: FastAPI, registry: Registry, counts: ServiceCounts, keys: ApiKeys) -> None:
    """Serve `/page/live`. It holds only counts, and needs a key if `/metrics` does."""
    streams = LimitedStreams()

    async def events() -> AsyncIterator[bytes]:
        while not registry.stopping:  # otherwise the server's shutdown would wait for this response
            yield b"data: " + orjson.dumps(describe_counts(await counts.live())) + b"\n\n"
            await asyncio.sleep(INTERVAL_SECONDS)

    may_read = [Depends(keys.require("metrics"))]

    @app.get("/page/live", include_in_schema=False, dependencies=may_read)
    async def live() -> StreamingResponse:
        streams.check()
        return CountedResponse(events(), streams)


def describe_counts(counts: LiveCounts) -> dict[str, Any]:
    """Counts since the start of the service; the page shows their differences."""
    return {
        "outcomes": counts.outcomes,
        "last_errors": counts.last_errors,
        "latency": {"bounds": SECONDS_BUCKETS, "counts": counts.latencies},
        "batches": counts.batches,
        "images": counts.images,
        "waiting": counts.waiting,
    }
