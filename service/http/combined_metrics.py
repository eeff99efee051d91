"""Metrics of several workers as one: counters are added, and so are most gauges."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

Families = list[dict[str, Any]]
"""Metrics as JSON: name, documentation and type, and samples of a name, labels and a value."""
_LARGEST: Final = {"resident_versions", "process_max_fds"}
_SMALLEST: Final = {"process_start_time_seconds"}
_NEVER_FALL: Final = {"counter", "histogram"}


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
    """Sum the samples of all parts, which keep their order.

    Versions by state are the most that one worker has, and the start is the earliest.
    """
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
