"""Metrics of several workers as one: counts are added, and each gauge has its own rule."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

Families = list[dict[str, Any]]
"""Metrics as JSON: name, documentation and type, and samples of a name, labels and a value."""
GAUGES: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "process_max_fds": max,
    "process_open_fds": sum,
    "process_resident_memory_bytes": sum,
    "process_start_time_seconds": min,
    "process_virtual_memory_bytes": sum,
    "resident_build_info": max,
    "resident_decoder_processes": sum,
    "resident_decoder_queue_images": sum,
    "resident_decoding_images": sum,
    "resident_gpu_memory_bytes": max,
    "resident_gpu_memory_used_bytes": max,
    "resident_instances": sum,
    "resident_instances_busy": sum,
    "resident_key_expiry_timestamp_seconds": max,
    "resident_key_last_used_timestamp_seconds": max,
    "resident_live": min,
    "resident_load_seconds": max,
    "resident_memory_limit_bytes": max,
    "resident_pending_images": sum,
    "resident_queue_images": sum,
    "resident_queue_oldest_seconds": max,
    "resident_ready": min,
    "resident_recent_embedding_drift": fmean,
    "resident_recent_images": sum,
    "resident_recent_top_score_mean_ratio": fmean,
    "resident_recent_top_score_ratio": fmean,
    "resident_store_readable": min,
    "resident_test_accuracy_ratio": max,
    "resident_test_top_score_mean_ratio": max,
    "resident_test_top_score_ratio": max,
    "resident_upload_bytes": sum,
    "resident_upload_limit_bytes": sum,
    "resident_versions": max,
    "resident_warm_up_seconds": max,
    "resident_workers": sum,
    "nv_inference_pending_request_count": sum,
}
"""How each gauge is combined. Counts are always added."""
_NEVER_FALL: Final = {"counter", "histogram", "unknown"}
"""Types of counts. Counts under Triton's names have no type."""


def dump_families(registry: CollectorRegistry) -> Families:
    return [
        {
            "name": family.name,
            "documentation": family.documentation,
            "type": family.type,
            "samples": [(sample.name, sample.labels, sample.value) for sample in family.samples],
        }
        for family in registry.collect()
    ]


def keep_counters(families: Families) -> Families:
    """Drop the gauges, which describe the present state of a worker."""
    return [family for family in families if family["type"] in _NEVER_FALL]


def combine_families(parts: Iterable[Families]) -> Families:
    """Combine the samples of all parts, which keep their order."""
    combined: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
    headers: dict[str, dict[str, Any]] = {}
    for family in (family for part in parts for family in part):
        name = family["name"]
        headers.setdefault(name, family)
        values = combined.setdefault(name, {})
        for sample, labels, value in family["samples"]:
            values.setdefault((sample, tuple(labels.items())), []).append(value)
    return [
        {
            **header,
            "samples": [
                (sample, dict(labels), GAUGES.get(name, sum)(values))
                for (sample, labels), values in combined[name].items()
            ],
        }
        for name, header in headers.items()
    ]


class FixedMetrics(Collector):
    """Metrics that were collected before."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family["name"], family["documentation"], family["type"])
            metric.samples = [Sample(*sample) for sample in family["samples"]]
            yield metric
