"""The one metrics module: what Prometheus is told at /metrics. One observation per outcome, in base units."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.prediction import Prediction
from service.registry import Registry

STAGES = ("receive", "decode", "queue", "inference", "total")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What is counted of a service. Used from the event loop; `registry` may be read from any thread."""

    def __init__(self, models: Registry) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_ServedModels(models))
        self._requests = Counter(
            "resident_requests",
            "Prediction requests by outcome: ok, or the problem's code",
            ["model", "outcome"],
            registry=self.registry,
        )
        self._images = Counter("resident_images", "Images that were classified", ["model", "version"], registry=self.registry)
        self._stages = Histogram(
            "resident_stage_seconds",
            f"Time of a request by stage: {', '.join(STAGES)}",
            ["model", "stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._of_model: dict[str, dict[str, Histogram]] = {}

    def observe(self, seen: Prediction, outcome: str) -> None:
        """Count one prediction request once it is over. A model that is not served has no name here: strangers may invent many."""
        self._requests.labels(seen.model, outcome).inc()
        stages = self._of_model.get(seen.model) or self._name_stages(seen.model)
        for stage, seconds in seen.seconds.items():
            stages[stage].observe(seconds)
        stages["total"].observe(time.monotonic() - seen.began)
        if outcome == "ok":
            self._images.labels(seen.model, str(seen.version)).inc(seen.images - seen.failed_images)

    def _name_stages(self, model: str) -> dict[str, Histogram]:
        """Kept, since to look them up costs as much as to observe."""
        self._of_model[model] = {stage: self._stages.labels(model, stage) for stage in STAGES}
        return self._of_model[model]


class _ServedModels(Collector):
    """Read when asked: queues, batches, and versions by state."""

    def __init__(self, models: Registry) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("resident_queue_images", "Images that wait for a place in a batch", labels=["model", "version"])
        pending = GaugeMetricFamily("resident_pending_images", "Images let in and not answered yet", labels=["model", "version"])
        batches = HistogramMetricFamily("resident_batch_size", "Images of the batches that were run", labels=["model", "version"])
        states = GaugeMetricFamily("resident_versions", "Versions by state", labels=["model", "state"])
        for name, model in sorted(self._models.models.items()):
            counted = {"ready": len(model.serving), "loading": int(model.loading is not None), "error": len(model.errors)}
            for state, count in counted.items():
                states.add_metric([name, state], count)
            for number, served in sorted(model.serving.items()):
                labels = [name, str(number)]
                waiting.add_metric(labels, served.batcher.waiting)
                pending.add_metric(labels, served.admission.images)
                sizes = dict(served.batcher.batch_sizes)  # instances count on meanwhile
                buckets = [(str(float(most)), float(sum(n for size, n in sizes.items() if size <= most))) for most in SIZES]
                total = float(sum(size * n for size, n in sizes.items()))
                batches.add_metric(labels, [*buckets, ("+Inf", float(sum(sizes.values())))], total)
        yield from (waiting, pending, batches, states)
