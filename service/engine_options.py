"""How a model is run: its own settings before those of all models, and what is right without thinking where nothing is set."""

from model_store.session import SessionOptions
from service.served_version import EngineOptions
from service.settings import Settings
from service.tuning import Tuning


def engine_options(settings: Settings, model: str, cpus: int) -> EngineOptions:
    """Threads times instances are the CPUs of the container, unless a person says otherwise.

    Several runs of one thread serve many clients best; one run of all threads is a lone client's fastest answer.
    """
    own = settings.models.get(model)
    overridden = {} if own is None else own.model_dump(exclude_none=True)
    chosen = settings.model_copy(update=overridden)
    said = settings.model_fields_set | overridden.keys()
    if "mode" in said:
        said |= {"instances", "intra_op_num_threads"}
    threads = chosen.intra_op_num_threads or (cpus if chosen.mode == "latency" else 1)
    return EngineOptions(
        session=SessionOptions(intra_op_num_threads=threads),
        instances=chosen.instances or max(1, cpus // threads),
        max_batch_size=chosen.max_batch_size,
        max_queue_delay_seconds=chosen.max_queue_delay_seconds,
        max_queue_size=chosen.max_queue_size,
        deadline_seconds=chosen.deadline_seconds,
        precision=chosen.precision,
        tuning=Tuning(settings.cache, cpus, frozenset(said)),
    )
