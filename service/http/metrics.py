"""Prometheus metrics in base units, and the route that exposes them."""

import asyncio
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated

from fastapi import APIRouter, Header
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse, Response

from service.errors import RejectionReason
from service.http.error_responses import KEY_ERRORS, describe_errors
from service.http.model_metrics import ModelCollector
from service.prediction.request import RequestRecord
from service.prediction.version_statistics import VersionStatistics
from service.versions.registry import Registry

MAX_VERSIONS = 1000
STAGES = ("receive", "decode", "queue", "inference", "response", "total")
SECONDS_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)


@dataclass(slots=True)
class _Histogram:
    """Counts per bucket, not cumulative; the last bucket has no upper bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS_BUCKETS) + 1))
    seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS_BUCKETS, seconds)] += 1
        self.seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        bounds = [*map(str, SECONDS_BUCKETS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


class ServiceMetrics(Collector):
    """Metrics of one service. Observed on the event loop; `registry` may be read by any thread.

    Counts are plain numbers, which `collect` converts. With the locked counters of
    prometheus-client, a request would cost five times as much: 21 us instead of 4 us.
    """

    def __init__(self, models: Registry, *others: Collector) -> None:
        """Create the metrics of the requests and of these models.

        Args:
            models: The models that serve.
            others: Collectors of further metrics.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        for collector in (*others, ModelCollector(models), self):
            self.registry.register(collector)
        self._models = models
        self._requests: Counter[tuple[str, str]] = Counter()
        self._rejections: Counter[tuple[str, RejectionReason]] = Counter()
        self._images: Counter[tuple[str, str]] = Counter()
        self._stages: defaultdict[tuple[str, str], _Histogram] = defaultdict(_Histogram)
        self.versions: defaultdict[tuple[str, int], VersionStatistics] = defaultdict(
            VersionStatistics
        )
        """By model and version. Only versions that were leased, so clients cannot invent any."""
        self.last_errors: dict[str, float] = {}
        """When a request last failed, in seconds since 1970, by the code of its problem."""

    def observe(self, record: RequestRecord, outcome: str) -> None:
        """Count a prediction request that has ended.

        The model label is empty if the model is not served, because clients could invent any
        number of names.
        """
        total = time.monotonic() - record.started
        rest = max(0.0, total - sum(record.seconds.values()))
        self._requests[record.model, outcome] += 1
        if outcome != "ok":
            self.last_errors[outcome] = time.time()
        if record.rejection:
            self._rejections[record.model, record.rejection] += 1
        if record.model:
            self.versions[record.model, record.version].observe(record, total, rest, outcome)
        for stage, seconds in record.seconds.items():
            self._stages[record.model, stage].observe(seconds)
        self._stages[record.model, "total"].observe(total)
        if outcome == "ok":
            self._stages[record.model, "response"].observe(rest)
            classified = record.images - record.failed_images
            self._images[record.model, str(record.version)] += classified

    def _forget_unloaded(self) -> None:
        """Forget old versions once there are too many: a service may see new ones for years."""
        if len(self.versions) > MAX_VERSIONS:
            for name, number in list(self.versions):
                if number not in self._models.states(name):
                    self.versions.pop((name, number), None)
                    self._images.pop((name, str(number)), None)

    def outcomes(self) -> dict[str, int]:
        """Prediction requests by outcome, over all models."""
        counts: Counter[str] = Counter()
        for (_, outcome), count in self._requests.items():
            counts[outcome] += count
        return dict(counts)

    def total_seconds_counts(self) -> list[int]:
        """Prediction requests by their total time: one count per bound, and one above."""
        counts = [0] * (len(SECONDS_BUCKETS) + 1)
        for (_, stage), histogram in self._stages.items():
            if stage == "total":
                counts = [sum(pair) for pair in zip(counts, histogram.counts, strict=True)]
        return counts

    def collect(self) -> Iterator[Metric]:
        self._forget_unloaded()
        requests = CounterMetricFamily(
            "resident_requests",
            "Prediction requests by outcome: ok, or the code of the problem",
            labels=["model", "outcome"],
        )
        images = CounterMetricFamily(
            "resident_images", "Images that were classified", labels=["model", "version"]
        )
        rejected = CounterMetricFamily(
            "resident_rejected_requests",
            "Prediction requests that were rejected because of load, by the limit: queue_full, "
            "deadline, upload_bytes, decoders, rate_limit",
            labels=["model", "reason"],
        )
        for family, counts in (
            (requests, self._requests),
            (rejected, self._rejections),
            (images, self._images),
        ):
            for labels, count in counts.copy().items():
                family.add_metric(labels, count)
        stages = HistogramMetricFamily(
            "resident_stage_seconds",
            f"Time of a request by stage: {', '.join(STAGES)}; response is the rest of the total "
            "of an answered request",
            labels=["model", "stage"],
        )
        for labels, histogram in self._stages.copy().items():
            stages.add_metric(labels, histogram.buckets(), histogram.seconds)
        yield from (requests, rejected, images, stages)


def build_metrics_router(read: Callable[[], Awaitable[Collector]]) -> APIRouter:
    """Build the route. `read` gives the metrics of the whole service."""
    router = APIRouter(tags=["health"])

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=PlainTextResponse,
        responses=describe_errors(*KEY_ERRORS),
    )
    async def show_metrics(
        accept: Annotated[str, Header(include_in_schema=False)] = "",
    ) -> Response:
        """Requests by outcome, time by stage, batch sizes, queues and versions by state.

        Counts are the sums over all workers.

        In the Prometheus text format, or in OpenMetrics if `Accept` asks for it.
        """
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the version in the header is not a number
            encode, media_type = choose_encoder("")
        text = await asyncio.to_thread(encode, await read())
        return Response(text, media_type=media_type)

    return router
