"""How a model is run: its own settings, else those for all models, else defaults."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Self

from model_store.graph_cache import GraphCache
from model_store.providers import CPU, default_instances
from model_store.session import SessionOptions
from model_store.version import Version
from service.engine.measurement_cache import MeasurementCache
from service.engine.tuned_settings import TunedSettingsLookup
from service.settings import RequestedPrecision, Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """How versions of a model are run. Without `max_batch_size` the warm-up finds the best size.

    `lone_threads`: threads for the run of a lone image; None to run it like others.
    """

    session: SessionOptions
    instances: int = 1
    max_batch_size: int | None = None
    max_queue_delay_seconds: float = 0.0
    max_queue_size: int = 512
    deadline_seconds: float = 30.0
    precision: RequestedPrecision = "auto"
    lone_threads: int | None = None
    run_timeout_seconds: float = 60.0
    tuned_settings: TunedSettingsLookup | None = None
    measurements: MeasurementCache | None = None

    def for_version(self, version: Version, *, log: bool = True) -> Self:
        """Apply the tuned settings of this version to the options that the user has not set."""
        on_cpu = self.session.providers == SessionOptions().providers  # `tune` measures on the CPU
        if not self.tuned_settings or not on_cpu:
            return self
        tuned = self.tuned_settings.values_for(version, log=log)
        if not tuned:
            return self
        values = " ".join(f"{name}={value}" for name, value in tuned.items())
        if log:
            logger.info("tuned settings used version=%s %s", version, values)
        threads = tuned.pop("intra_op_num_threads", self.session.intra_op_num_threads)
        lone_threads = self.lone_threads if threads == 1 else None
        session = replace(self.session, intra_op_num_threads=threads)
        return replace(self, session=session, lone_threads=lone_threads, **tuned)


@dataclass(frozen=True)
class Caches:
    """Caches on this machine that make the next start faster; None disables one."""

    graphs: GraphCache | None = None
    engines: Path | None = None
    measurements: MeasurementCache | None = None


def engine_options(
    settings: Settings,
    model: str,
    all_cpus: int,
    providers: Sequence[str] = (CPU,),
    caches: Caches | None = None,
    workers: int = 1,
) -> EngineOptions:
    """The options of one model in one of `workers`, which share `all_cpus`.

    By default, instances times threads equals `cpus`, and a GPU gets two instances. In `latency`
    mode one instance has all threads. In the other modes instances have one thread; `auto` also
    runs a lone image with all threads, unless the threads of a run are set.
    """
    cpus = ceil(all_cpus / workers)
    own, caches = settings.models.get(model), caches or Caches()
    overridden = {} if own is None else own.model_dump(exclude_none=True)
    if "mode" in overridden:  # the values set for all models would undo the model's own mode
        overridden = {"instances": None, "intra_op_num_threads": None} | overridden
    effective = settings.model_copy(update=overridden)
    set_by_a_person = settings.model_fields_set | overridden.keys()
    if "mode" in set_by_a_person:
        set_by_a_person |= {"instances", "intra_op_num_threads"}
    threads = effective.intra_op_num_threads or (cpus if effective.mode == "latency" else 1)
    tries_lone_runs = effective.mode == "auto" and not effective.intra_op_num_threads
    instances = effective.instances or default_instances(providers, max(1, cpus // threads))
    session = SessionOptions(
        providers=providers,
        intra_op_num_threads=threads,
        concurrent_runs=instances,
        gpu_memory_bytes=settings.gpu_memory_bytes,
        graphs=caches.graphs,
        engines=caches.engines,
    )
    return EngineOptions(
        session=session,
        lone_threads=cpus if tries_lone_runs and cpus > 1 and tuple(providers) == (CPU,) else None,
        instances=instances,
        max_batch_size=effective.max_batch_size,
        max_queue_delay_seconds=effective.max_queue_delay_seconds,
        max_queue_size=effective.max_queue_size,
        deadline_seconds=effective.deadline_seconds,
        precision=effective.precision,
        run_timeout_seconds=settings.run_timeout_seconds,
        measurements=caches.measurements,
        tuned_settings=TunedSettingsLookup(
            settings.cache, all_cpus, frozenset(set_by_a_person), workers
        ),
    )
