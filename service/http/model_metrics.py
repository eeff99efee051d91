"""Metrics of the models and versions that serve, read from the engine at each scrape."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from model_store.provenance import TopScores
from service.engine.loaded_version import LoadedVersion
from service.versions.registry import Registry

BATCH_SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64)
Read = Callable[[LoadedVersion], float | None]
_LABELS: Final = ("model", "version")


def _test_scores(loaded: LoadedVersion) -> TopScores | None:
    metrics = loaded.version.manifest.metrics
    return metrics.top_scores if metrics else None


_GAUGES: Final[Mapping[str, tuple[str, Read]]] = {
    "resident_queue_images": (
        "Images that wait for a place in a batch",
        lambda loaded: loaded.batcher.waiting,
    ),
    "resident_queue_oldest_seconds": (
        "How long the oldest image has waited for a place in a batch; 0 if none waits",
        lambda loaded: loaded.batcher.oldest_seconds,
    ),
    "resident_pending_images": (
        "Images that were admitted and are not answered yet",
        lambda loaded: loaded.admitted.images,
    ),
    "resident_instances": (
        "Batches that can run at the same time",
        lambda loaded: loaded.batcher.instances,
    ),
    "resident_instances_busy": (
        "Instances that run a batch",
        lambda loaded: loaded.batcher.busy_instances,
    ),
    "resident_load_seconds": (
        "How long the version took to load in this process, with its proof",
        lambda loaded: loaded.load_seconds,
    ),
    "resident_warm_up_seconds": (
        "How long the runs of its warm-up took, in this process or in its trial",
        lambda loaded: loaded.warm_up_seconds,
    ),
    "resident_test_accuracy_ratio": (
        "Share of the test images of training with a correct top label",
        lambda loaded: metrics.top1 if (metrics := loaded.version.manifest.metrics) else None,
    ),
    "resident_test_top_score_mean_ratio": (
        "Mean top score of the test images of training",
        lambda loaded: scores.mean if (scores := _test_scores(loaded)) else None,
    ),
    "resident_recent_images": (
        "Images on which the metrics resident_recent_* are based: the newest, at most 1,000",
        lambda loaded: len(loaded.recent),
    ),
    "resident_recent_top_score_mean_ratio": (
        "Mean top score of the newest images",
        lambda loaded: loaded.recent.mean_score(),
    ),
    "resident_recent_embedding_drift": (
        "Mean distance of the newest images from training, in SD; 0 is that of validation images",
        lambda loaded: loaded.recent.mean_distance(),
    ),
}
_COUNTERS: Final[Mapping[str, tuple[str, Read]]] = {
    "resident_abstentions": (
        "Images that the model abstained from",
        lambda loaded: loaded.recent.abstentions,
    ),
    "resident_terminated_runs": (
        "Runs that the watchdog has terminated",
        lambda loaded: loaded.terminated_runs,
    ),
}


class ModelCollector(Collector):
    """Reads the registry. A version that is unloaded has no metrics any more."""

    def __init__(self, models: Registry) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        models = sorted(self._models.models.items())
        serving = [
            ([name, str(number)], loaded)
            for name, model in models
            for number, loaded in sorted(model.serving.items())
        ]
        for name, (text, read) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=_LABELS)
            for labels, loaded in serving:
                if (value := read(loaded)) is not None:
                    gauge.add_metric(labels, value)
            yield gauge
        for name, (text, read) in _COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            for labels, loaded in serving:
                counter.add_metric(labels, read(loaded) or 0)
            yield counter
        yield from self._score_percentiles(serving)
        yield self._dropped_images(serving)
        yield self._batch_sizes(serving)
        yield self._versions()

    @staticmethod
    def _score_percentiles(
        serving: list[tuple[list[str], LoadedVersion]],
    ) -> Iterator[Metric]:
        recent = GaugeMetricFamily(
            "resident_recent_top_score_ratio",
            "Top score of the newest images by percentile",
            labels=[*_LABELS, "percentile"],
        )
        test = GaugeMetricFamily(
            "resident_test_top_score_ratio",
            "Top score of the test images of training by percentile",
            labels=[*_LABELS, "percentile"],
        )
        for labels, loaded in serving:
            for percentile, score in loaded.recent.score_percentiles().items():
                recent.add_metric([*labels, str(percentile)], score)
            if scores := _test_scores(loaded):
                for name, score in scores.percentiles.items():
                    test.add_metric([*labels, name], score)
        yield recent
        yield test

    @staticmethod
    def _dropped_images(serving: list[tuple[list[str], LoadedVersion]]) -> Metric:
        dropped = CounterMetricFamily(
            "resident_dropped_images",
            "Images that left the queue without a run: their request was cancelled, or its "
            "deadline passed",
            labels=[*_LABELS, "reason"],
        )
        for labels, loaded in serving:
            for reason in ("cancelled", "deadline"):
                dropped.add_metric([*labels, reason], loaded.batcher.dropped[reason])
        return dropped

    @staticmethod
    def _batch_sizes(serving: list[tuple[list[str], LoadedVersion]]) -> Metric:
        batches = HistogramMetricFamily(
            "resident_batch_size", "Images of the batches that were run", labels=_LABELS
        )
        for labels, loaded in serving:
            sizes = dict(loaded.batcher.batch_sizes)  # a copy, because batches keep running
            buckets = [
                (str(float(bound)), float(sum(n for size, n in sizes.items() if size <= bound)))
                for bound in BATCH_SIZE_BUCKETS
            ]
            images = float(sum(size * n for size, n in sizes.items()))
            batches.add_metric(labels, [*buckets, ("+Inf", float(sum(sizes.values())))], images)
        return batches

    def _versions(self) -> Metric:
        states = GaugeMetricFamily(
            "resident_versions", "Versions by state", labels=["model", "state"]
        )
        for name, model in sorted(self._models.models.items()):
            counts = {
                "ready": len(model.serving),
                "loading": int(model.loading is not None) + len(model.on_trial),
                "error": len(model.errors),
                "unloading": list(self._models.states(name).values()).count("unloading"),
            }
            for state, count in counts.items():
                states.add_metric([name, state], count)
        return states
