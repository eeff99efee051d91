"""How a model is run: its own settings before those of all models, and what is right without thinking where nothing is set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model_store.graph_cache import GraphCache
from model_store.providers import CPU, default_instances
from model_store.session import SessionOptions
from service.engine.loaded_version import EngineOptions
from service.engine.tuned_settings_lookup import TunedSettingsLookup
from service.settings import Settings
from service.versions.version_policy import VersionPolicy, parse_policy


@dataclass(frozen=True)
class Caches:
    """What this host keeps for the next start, where it may."""

    graphs: GraphCache | None = None
    engines: Path | None = None


def engine_options(
    settings: Settings,
    model: str,
    cpus: int,
    providers: Sequence[str] = (CPU,),
    caches: Caches | None = None,
) -> EngineOptions:
    """Threads times instances are the CPUs of the container, unless a person says otherwise; a GPU has two runs.

    Several runs of one thread serve many clients best; one run of all threads is a lone client's fastest answer.
    """
    own, caches = settings.models.get(model), caches or Caches()
    overridden = {} if own is None else own.model_dump(exclude_none=True)
    if "mode" in overridden:  # what is set for all models would undo it
        overridden = {"instances": None, "intra_op_num_threads": None} | overridden
    chosen = settings.model_copy(update=overridden)
    said = settings.model_fields_set | overridden.keys()
    if "mode" in said:
        said |= {"instances", "intra_op_num_threads"}
    threads = chosen.intra_op_num_threads or (cpus if chosen.mode == "latency" else 1)
    instances = chosen.instances or default_instances(providers, max(1, cpus // threads))
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
        instances=instances,
        max_batch_size=chosen.max_batch_size,
        max_queue_delay_seconds=chosen.max_queue_delay_seconds,
        max_queue_size=chosen.max_queue_size,
        deadline_seconds=chosen.deadline_seconds,
        precision=chosen.precision,
        run_timeout_seconds=settings.run_timeout_seconds,
        tuning=TunedSettingsLookup(settings.cache, cpus, frozenset(said)),
    )


def version_policy(settings: Settings, model: str) -> VersionPolicy:
    """The model's own, else that of all."""
    own = settings.models.get(model)
    return parse_policy((own and own.version_policy) or settings.version_policy)
