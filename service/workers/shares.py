"""Divides the CPUs, the memory and the limits of the service among its workers."""

from dataclasses import dataclass
from math import ceil
from typing import Any, Final, Self

from service.host.cpu_limit import cpu_limit
from service.host.memory_limit import memory_limit
from service.settings import ModelSettings, Settings

DIVIDED_SETTINGS: Final = (
    "max_queue_size",
    "max_upload_bytes",
    "decode_workers",
    "instances",
    "access_log_rate",
)
"""Settings of the whole service, of which each worker gets an equal part, rounded up."""


@dataclass(frozen=True)
class Share:
    """The part of one worker. All parts are equal, so a trial is valid for all workers.

    Attributes:
        workers: How many there are.
        all_cpus: CPUs of all workers together.
        cpus: CPUs for runs of models and for decoding; at least 1.
        memory_bytes: Memory of the machine or container; None if unknown.
        settings: The settings, with its part of `DIVIDED_SETTINGS`.
    """

    workers: int
    all_cpus: int
    cpus: int
    memory_bytes: int | None
    settings: Settings

    @classmethod
    def of(cls, settings: Settings, workers: int = 1) -> Self:
        """The part of one of `workers`; a single one gets everything."""
        cpus, memory = cpu_limit(), memory_limit()
        if workers == 1:
            return cls(workers, cpus, cpus, memory, settings)
        part = memory and memory // workers
        return cls(workers, cpus, ceil(cpus / workers), part, _divide(settings, workers))


def count_workers(settings: Settings) -> int:
    """The number of server processes that the settings ask for."""
    return cpu_limit() if settings.workers == "auto" else settings.workers


def _divide(settings: Settings, workers: int) -> Settings:
    models = {
        name: ModelSettings.model_validate(
            model.model_dump(exclude_unset=True) | _parts(model, workers)
        )
        for name, model in settings.models.items()
    }
    return settings.model_copy(update=_parts(settings, workers) | {"models": models})


def _parts(settings: Settings | ModelSettings, workers: int) -> dict[str, Any]:
    values = {name: getattr(settings, name, None) for name in DIVIDED_SETTINGS}
    return {name: ceil(value / workers) for name, value in values.items() if value is not None}
