"""The metrics of inference under the names that Triton gives them, for dashboards made for it.

Durations are cumulative microseconds. Triton's names break Prometheus' rules: its counters do not
end in `_total`, so they are exposed without a type.

Source: https://docs.nvidia.com/deeplearning/triton-inference-server, user guide, "Metrics"
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from service.engine.loaded_version import LoadedVersion
from service.prediction.version_statistics import VersionStatistics
from service.versions.registry import Registry

Versions = Mapping[tuple[str, int], VersionStatistics]
Read = Callable[[VersionStatistics, LoadedVersion], float]
FAILURE_REASONS: Final = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_LABELS: Final = ("model", "version")
_REASONS: Final = {
    "overloaded": "REJECTED",
    "deadline_exceeded": "REJECTED",
    "client_closed_request": "CANCELED",
    "inference_failed": "BACKEND",
    "invalid_model_output": "BACKEND",
}
_MICROSECONDS: Final = 1e6


def _stage_microseconds(stage: str) -> Read:
    return lambda statistics, _: round(statistics.stages[stage] * _MICROSECONDS)


_COUNTERS: Final[Mapping[str, tuple[str, Read]]] = {
    "nv_inference_request_success": (
        "Requests that were answered",
        lambda statistics, _: statistics.success.count,
    ),
    "nv_inference_count": (
        "Images that were classified",
        lambda statistics, _: statistics.images,
    ),
    "nv_inference_exec_count": (
        "Batches that were run",
        lambda _, loaded: sum(dict(loaded.batcher.batch_sizes).values()),
    ),
    "nv_inference_request_duration_us": (
        "Time of answered requests",
        lambda statistics, _: round(statistics.success.seconds * _MICROSECONDS),
    ),
    "nv_inference_queue_duration_us": (
        "Time that requests waited for a batch",
        _stage_microseconds("queue"),
    ),
    "nv_inference_compute_input_duration_us": (
        "Time that images were decoded",
        _stage_microseconds("decode"),
    ),
    "nv_inference_compute_infer_duration_us": (
        "Time that the model ran",
        _stage_microseconds("inference"),
    ),
    "nv_inference_compute_output_duration_us": (
        "The rest of the time of a request",
        _stage_microseconds("other"),
    ),
}


class TritonCollector(Collector):
    """Reads the statistics of the versions that serve."""

    def __init__(self, models: Registry, versions: Versions) -> None:
        self._models = models
        self._versions = versions

    def collect(self) -> Iterator[Metric]:
        serving = [
            ([name, str(number)], self._versions.get((name, number)) or VersionStatistics(), loaded)
            for name, model in sorted(self._models.models.items())
            for number, loaded in sorted(model.serving.items())
        ]
        for name, (text, read) in _COUNTERS.items():
            counter = UnknownMetricFamily(name, text, labels=_LABELS)
            for labels, statistics, loaded in serving:
                counter.add_metric(labels, read(statistics, loaded))
            yield counter
        failures = UnknownMetricFamily(
            "nv_inference_request_failure",
            "Requests that failed, by reason",
            labels=[*_LABELS, "reason"],
        )
        pending = GaugeMetricFamily(
            "nv_inference_pending_request_count",
            "Images that wait for a place in a batch",
            labels=_LABELS,
        )
        for labels, statistics, loaded in serving:
            counts = dict.fromkeys(FAILURE_REASONS, 0)
            for code, count in statistics.failures.copy().items():
                counts[_REASONS.get(code, "OTHER")] += count
            for reason, count in counts.items():
                failures.add_metric([*labels, reason], count)
            pending.add_metric(labels, loaded.batcher.waiting)
        yield from (failures, pending)
