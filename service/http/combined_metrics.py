"""Metrics of several workers as one: counters are added, and so are most gauges."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

Families = list[dict[str, Any]]
"""Metrics as JSON: name, documentation and type, and samples of a name, labels and a value."""
_LARGEST: Final = {
    "process_max_fds",
    "resident_build_info",
    "resident_key_expiry_timestamp_seconds",
    "resident_key_last_used_timestamp_seconds",
    "resident_memory_limit_bytes",
    "resident_recent_top_score_ratio",
    "resident_versions",
}
_SMALLEST: Final = {
    "process_start_time_seconds",
    "resident_live",
    "resident_ready",
    "resident_store_readable",
}
"""How gauges that say something else than an amount are combined; all others are added."""
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
    """Without what says how a worker is now."""
    return [family for family in families if family["type"] in _NEVER_FALL]


def combine_families(parts: Iterable[Families]) -> Families:
    """Sum the samples of all parts, which keep their order."""
    combined: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    headers: dict[str, dict[str, Any]] = {}
    for family in (family for part in parts for family in part):
        name = family["name"]
        headers.setdefault(name, family)
        values = combined.setdefault(name, {})
        for sample, labels, value in family["samples"]:
            key = sample, tuple(labels.items())
            values[key] = _combine(name, [values[key], value]) if key in values else value
    return [
        {
            **header,
            "samples": [
                (sample, dict(labels), value) for (sample, labels), value in combined[name].items()
            ],
        }
        for name, header in headers.items()
    ]


def _combine(name: str, values: Sequence[float]) -> float:
    if name in _LARGEST:
        return max(values)
    return min(values) if name in _SMALLEST else sum(values)


class FixedMetrics(Collector):
    """Metrics that were collected before."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family["name"], family["documentation"], family["type"])
            metric.samples = [Sample(*sample) for sample in family["samples"]]
            yield metric
