"""The stream of counters behind the live view, as server-sent events (HTML, section 9.2)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from service.http.metrics import SECONDS_BUCKETS, ServiceMetrics
from service.versions.registry import Registry

INTERVAL_SECONDS: Final = 1.0
_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx would buffer


def add_live_route(app: FastAPI, registry: Registry, metrics: ServiceMetrics) -> None:
    """Serve `/page/live`. Like `/metrics` it needs no key, and holds only counts."""

    async def events() -> AsyncIterator[bytes]:
        while not registry.stopping:  # or the server would wait for this response at its end
            yield b"data: " + orjson.dumps(read_counters(registry, metrics)) + b"\n\n"
            await asyncio.sleep(INTERVAL_SECONDS)

    @app.get("/page/live", include_in_schema=False)
    async def live() -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream", headers=_HEADERS)


def read_counters(registry: Registry, metrics: ServiceMetrics) -> dict[str, Any]:
    """Counts since the start of this process; the page shows their differences."""
    loaded = [each for model in registry.models.values() for each in model.serving.values()]
    batches, images = 0, 0
    for each in loaded:
        for size, count in dict(each.batcher.batch_sizes).items():
            batches += count
            images += size * count
    return {
        "outcomes": metrics.outcomes(),
        "latency": {"bounds": SECONDS_BUCKETS, "counts": metrics.total_seconds_counts()},
        "batches": batches,
        "images": images,
        "waiting": sum(each.batcher.waiting for each in loaded),
    }
