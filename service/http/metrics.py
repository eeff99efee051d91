"""The one metrics module: what Prometheus is told at /metrics. One observation per outcome, in base units."""

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from service.prediction.pipeline import RequestRecord
from service.versions.registry import Registry

STAGES = ("receive", "decode", "queue", "inference", "total")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(slots=True)
class _Times:
    """A histogram's counts: of each bucket by itself, the last one without bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        bounds = [*map(str, SECONDS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


class ServiceMetrics(Collector):
    """What is counted of a service. Used from the event loop; `registry` may be read from any thread.

    The counts are plain numbers that become metrics when they are asked for: prometheus-client's own, with a lock each, would
    cost five times as much, at every request (9 us against 1.6).
    """

    def __init__(self, models: Registry) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_ServedModels(models))
        self.registry.register(self)
        self._requests: Counter[tuple[str, str]] = Counter()
        self._images: Counter[tuple[str, str]] = Counter()
        self._stages: defaultdict[tuple[str, str], _Times] = defaultdict(_Times)

    def observe(self, seen: RequestRecord, outcome: str) -> None:
        """Count one prediction request once it is over. A model that is not served has no name here: strangers may invent many."""
        self._requests[seen.model, outcome] += 1
        for stage, seconds in seen.seconds.items():
            self._stages[seen.model, stage].observe(seconds)
        self._stages[seen.model, "total"].observe(time.monotonic() - seen.began)
        if outcome == "ok":
            self._images[seen.model, str(seen.version)] += seen.images - seen.failed_images

    def collect(self) -> Iterator[Metric]:
        """Read when asked, as they are at that moment."""
        requests = CounterMetricFamily(
            "resident_requests",
            "Prediction requests by outcome: ok, or the problem's code",
            labels=["model", "outcome"],
        )
        images = CounterMetricFamily(
            "resident_images", "Images that were classified", labels=["model", "version"]
        )
        for family, counted in ((requests, self._requests), (images, self._images)):
            for labels, count in counted.copy().items():
                family.add_metric(labels, count)
        stages = HistogramMetricFamily(
            "resident_stage_seconds",
            f"Time of a request by stage: {', '.join(STAGES)}",
            labels=["model", "stage"],
        )
        for labels, times in self._stages.copy().items():
            stages.add_metric(labels, times.buckets(), times.seconds)
        yield from (requests, images, stages)


class _ServedModels(Collector):
    """Read when asked: queues, batches, and versions by state."""

    def __init__(self, models: Registry) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            "resident_queue_images",
            "Images that wait for a place in a batch",
            labels=["model", "version"],
        )
        pending = GaugeMetricFamily(
            "resident_pending_images",
            "Images let in and not answered yet",
            labels=["model", "version"],
        )
        batches = HistogramMetricFamily(
            "resident_batch_size",
            "Images of the batches that were run",
            labels=["model", "version"],
        )
        states = GaugeMetricFamily(
            "resident_versions", "Versions by state", labels=["model", "state"]
        )
        for name, model in sorted(self._models.models.items()):
            counted = {
                "ready": len(model.serving),
                "loading": int(model.loading is not None),
                "error": len(model.errors),
            }
            counted["unloading"] = list(self._models.states(name).values()).count("unloading")
            for state, count in counted.items():
                states.add_metric([name, state], count)
            for number, served in sorted(model.serving.items()):
                labels = [name, str(number)]
                waiting.add_metric(labels, served.batcher.waiting)
                pending.add_metric(labels, served.admitted.images)
                sizes = dict(served.batcher.batch_sizes)  # instances count on meanwhile
                buckets = [
                    (str(float(most)), float(sum(n for size, n in sizes.items() if size <= most)))
                    for most in SIZES
                ]
                total = float(sum(size * n for size, n in sizes.items()))
                batches.add_metric(labels, [*buckets, ("+Inf", float(sum(sizes.values())))], total)
        yield from (waiting, pending, batches, states)
