"""Counts of the whole service: those of this process and of all other workers."""

from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache

from prometheus_client.registry import Collector
from pydantic import TypeAdapter

from service.engine.loaded_version import LoadedVersion
from service.http.combined_metrics import (
    Families,
    FixedMetrics,
    combine_families,
    dump_families,
    keep_counters,
)
from service.http.metrics import ServiceMetrics
from service.prediction.version_statistics import VersionStatistics
from service.versions.registry import Registry
from service.workers.exchange import Counts, Exchange


@dataclass
class LiveCounts:
    """Counts for the live view.

    Attributes:
        last_errors: When a request last failed, in seconds since 1970, by the code of its problem.
        latencies: Requests by their total time, per bucket.
    """

    outcomes: dict[str, int]
    last_errors: dict[str, float]
    latencies: list[int]
    batches: int
    images: int
    waiting: int

    def add(self, other: "LiveCounts") -> None:
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count
        for code, seconds in other.last_errors.items():
            self.last_errors[code] = max(seconds, self.last_errors.get(code, 0.0))
        self.latencies = [sum(pair) for pair in zip(self.latencies, other.latencies, strict=True)]
        self.batches += other.batches
        self.images += other.images
        self.waiting += other.waiting


@dataclass
class VersionCounts:
    """The requests of one version, and its batches with their seconds by size."""

    statistics: VersionStatistics = field(default_factory=VersionStatistics)
    batches: dict[int, int] = field(default_factory=dict)
    batch_seconds: dict[int, float] = field(default_factory=dict)

    def add(self, other: "VersionCounts") -> None:
        self.statistics.add(other.statistics)
        for size, count in other.batches.items():
            self.batches[size] = self.batches.get(size, 0) + count
        for size, seconds in other.batch_seconds.items():
            self.batch_seconds[size] = self.batch_seconds.get(size, 0.0) + seconds


@dataclass
class WorkerCounts:
    """The counts of one worker; `versions` is by model and number, like `cifar10/1`."""

    metrics: Families
    live: LiveCounts
    versions: dict[str, VersionCounts]

    def add(self, other: "WorkerCounts") -> None:
        self.metrics = combine_families([self.metrics, other.metrics])
        self.live.add(other.live)
        for name, version in other.versions.items():
            self.versions.setdefault(name, VersionCounts()).add(version)


@cache
def _json() -> TypeAdapter[WorkerCounts]:  # a single worker does not need it
    return TypeAdapter(WorkerCounts)


def retire_counts(before: Counts | None, counts: Counts) -> Counts:
    """Add the counts of a worker that ended to those of earlier ones, without gauges."""
    ended = _json().validate_python(counts)
    ended.metrics = keep_counters(ended.metrics)
    ended.live.waiting = 0
    if before is not None:
        ended.add(_json().validate_python(before))
    dumped: Counts = _json().dump_python(ended, mode="json")
    return dumped


class ServiceCounts:
    """Reads the counts of this process, and adds those of the others."""

    def __init__(self, registry: Registry, metrics: ServiceMetrics, exchange: Exchange) -> None:
        self._registry = registry
        self._metrics = metrics
        self._exchange = exchange
        exchange.read_counts = self._dump

    async def metrics(self) -> Collector:
        """The metrics of the service."""
        if not (others := await self._others()):
            return self._metrics.registry
        own = dump_families(self._metrics.registry)
        return FixedMetrics(combine_families([own, *(each.metrics for each in others)]))

    async def live(self) -> LiveCounts:
        counts = self._live()
        for other in await self._others():
            counts.add(other.live)
        return counts

    async def versions(self) -> dict[str, VersionCounts]:
        """By model and number, like `cifar10/1`."""
        counts = self._versions()
        for other in await self._others():
            for name, version in other.versions.items():
                counts.setdefault(name, VersionCounts()).add(version)
        return counts

    async def _others(self) -> list[WorkerCounts]:
        return [_json().validate_python(each) for each in await self._exchange.counts_of_others()]

    def _dump(self) -> Counts:
        counts = WorkerCounts(dump_families(self._metrics.registry), self._live(), self._versions())
        dumped: Counts = _json().dump_python(counts, mode="json")
        return dumped

    def _loaded(self) -> list[LoadedVersion]:
        models = self._registry.models.values()
        return [loaded for model in models for loaded in model.serving.values()]

    def _versions(self) -> dict[str, VersionCounts]:
        counts = {}
        for loaded in self._loaded():
            version, batcher = loaded.version, loaded.batcher
            used = self._metrics.versions.get((version.model, version.number))
            counts[str(version)] = VersionCounts(
                deepcopy(used) if used else VersionStatistics(),
                dict(batcher.batch_sizes),
                dict(batcher.batch_seconds),
            )
        return counts

    def _live(self) -> LiveCounts:
        loaded = self._loaded()
        batches = [dict(each.batcher.batch_sizes) for each in loaded]
        return LiveCounts(
            self._metrics.outcomes(),
            dict(self._metrics.last_errors),
            self._metrics.total_seconds_counts(),
            sum(sum(sizes.values()) for sizes in batches),
            sum(size * count for sizes in batches for size, count in sizes.items()),
            sum(each.batcher.waiting for each in loaded),
        )
