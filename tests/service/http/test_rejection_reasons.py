"""Rejected requests are counted by the limit that rejected them."""

import asyncio

import pytest
from asgi_application import started
from colour_model import MODEL, plain
from exposition import find_sample

from model_store.store import ModelStore
from service.http.metrics import MAX_VERSIONS, ServiceMetrics
from service.prediction.request import RequestRecord
from service.settings import MEBIBYTE
from service.versions.registry import Registry

pytestmark = pytest.mark.anyio
RED = plain("red")
LARGE = plain("red", "BMP", (700, 700))  # more than 1 MiB, which is accepted alone


@pytest.mark.parametrize(
    ("settings", "parameters", "reason"),
    [
        ({"max_queue_size": 1}, "", "queue_full"),
        ({}, "?timeout_ms=5000", "deadline"),
        ({"max_upload_bytes": MEBIBYTE}, "", "upload_bytes"),
    ],
)
async def test_a_rejected_request_is_counted_by_its_reason(
    colour_store: ModelStore, settings: dict[str, int], parameters: str, reason: str
) -> None:
    async with started(colour_store.root, **settings) as application:
        model = application.hold_model()
        first = asyncio.ensure_future(application.client.post("/v1/predict", content=LARGE))
        await model.begun()
        profile = application.served().profile
        profile._seconds = [10.0] * len(profile._seconds)
        second = await application.client.post(f"/v1/predict{parameters}", content=RED)
        assert (second.status_code, second.json()["code"]) == (429, "overloaded")
        model.gate.set()
        assert (await first).status_code == 200
        text = (await application.client.get("/metrics")).text
    labels = {"model": MODEL, "reason": reason}
    assert find_sample(text, "resident_rejected_requests_total", labels) == 1


async def test_versions_of_the_past_are_forgotten(registry: Registry) -> None:
    """A service that sees new versions for years does not keep the counts of all of them."""
    metrics = ServiceMetrics(registry)
    for number in range(MAX_VERSIONS + 1):
        metrics.observe(RequestRecord(model=MODEL, version=number, images=1), "ok")
    list(metrics.collect())
    assert not metrics.versions
