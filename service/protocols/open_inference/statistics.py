"""Statistics of versions in the terms of the protocol: counts, and cumulative nanoseconds."""

from collections.abc import Mapping
from math import ceil

from service.engine.loaded_version import LoadedVersion
from service.http.service_counts import VersionCounts
from service.prediction.version_statistics import Duration, VersionStatistics
from service.protocols.open_inference.schemas import (
    BatchStatistics,
    InferStatistics,
    ModelStatistics,
    StatisticDuration,
)
from service.versions.registry import Registry


def find_served(registry: Registry, name: str | None, version: int | None) -> list[LoadedVersion]:
    """The versions that serve: all, those of a model, or one. Raises ServiceError."""
    if version is not None:
        return [registry.find(name, version)]
    if name is None:
        models = [model for _, model in sorted(registry.models.items())]
        return [loaded for model in models for loaded in model.serving.values()]
    registry.find(name)
    return list(registry.models[name].serving.values())


def describe_statistics(
    loaded: LoadedVersion, versions: Mapping[str, VersionCounts]
) -> ModelStatistics:
    """The statistics of one version.

    Args:
        loaded: The version.
        versions: The counts of all versions, by model and number.
    """
    counts = versions.get(str(loaded.version)) or VersionCounts()
    found = counts.statistics
    return ModelStatistics(
        name=loaded.version.model,
        version=str(loaded.version.number),
        last_inference=ceil(found.last_request * 1e3),
        inference_count=found.images,
        execution_count=sum(counts.batches.values()),
        inference_stats=InferStatistics(
            success=_duration(found.success),
            fail=_duration(found.failure),
            queue=_stage(found, "queue"),
            compute_input=_stage(found, "decode"),
            compute_infer=_stage(found, "inference"),
            compute_output=_stage(found, "other"),
        ),
        batch_stats=[
            BatchStatistics(
                batch_size=size,
                compute_infer=StatisticDuration(
                    count=count, ns=round(counts.batch_seconds.get(size, 0.0) * 1e9)
                ),
            )
            for size, count in sorted(counts.batches.items())
        ],
    )


def _stage(statistics: VersionStatistics, stage: str) -> StatisticDuration:
    return _duration(Duration(statistics.success.count, statistics.stages[stage]))


def _duration(duration: Duration) -> StatisticDuration:
    return StatisticDuration(count=duration.count, ns=round(duration.seconds * 1e9))
