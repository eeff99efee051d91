"""The program that `service.versions.trial` runs: load, prove and warm up one version.

It reads a pickled `TrialRequest` from standard input. It writes two lines to standard output: a
`TrialStart` before it opens the version, and a `TrialReport` at the end.
"""

import os
import pickle
import resource
import sys
import traceback
from dataclasses import dataclass
from typing import Final

from model_store.errors import ModelStoreError
from model_store.store import ModelStore
from model_store.validation import DeferredFrozenModel
from service.engine.options import EngineOptions
from service.engine.warm_model import Measurement, load_warm_model
from service.host.child_process import (
    be_killed_first,
    end_with_the_service,
    ignore_signals_for_the_service,
    limit_memory,
    memory_in_use,
    write_no_core_dumps,
)
from service.host.malloc import bound_malloc
from service.host.memory_limit import available_memory
from service.host.thread_priority import BACKGROUND_NICENESS
from service.versions.load_failure import LoadFailure, explain, is_out_of_memory

AVAILABLE_SHARE: Final = 0.9
"""A trial may allocate this share of the available memory; the service needs the rest."""
MAX_TRACE_CHARACTERS: Final = 8000


@dataclass(frozen=True)
class TrialRequest:
    """Which version to try, and how it is going to run.

    `memory_bytes` limits what the process may allocate; by default `default_memory_limit`.
    """

    store: ModelStore
    model: str
    number: int
    digest: str
    options: EngineOptions
    memory_bytes: int | None = None


class TrialStart(DeferredFrozenModel):
    """Written when the limits hold. `memory_bytes` is None if there is no limit of memory."""

    memory_bytes: int | None


class TrialReport(DeferredFrozenModel):
    """The measurement of a version that passed, else why it failed.

    `traceback` is for the log if the error is not a known one.
    """

    measurement: Measurement | None = None
    failure: LoadFailure | None = None
    traceback: str = ""


def default_memory_limit() -> int | None:
    """Most of the memory that is available now, in bytes; None if that is not known."""
    available = available_memory()
    return None if available is None else int(available * AVAILABLE_SHARE)


def main() -> None:
    ignore_signals_for_the_service()
    end_with_the_service()
    be_killed_first()
    write_no_core_dumps()
    os.nice(BACKGROUND_NICENESS)  # so that a trial hardly slows requests down
    bound_malloc()
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # so that nothing else is written to the output
    request: TrialRequest = pickle.load(sys.stdin.buffer)  # noqa: S301  the service wrote it
    memory_bytes = request.memory_bytes or default_memory_limit()
    print(TrialStart(memory_bytes=memory_bytes).model_dump_json(), file=output, flush=True)
    # Mapped weights are not counted: the kernel can drop and read them again.
    in_use = memory_in_use(resource.RLIMIT_DATA)
    if memory_bytes is not None and in_use is not None:
        limit_memory(in_use + memory_bytes, resource.RLIMIT_DATA)
    print(_try_version(request, memory_bytes).model_dump_json(), file=output, flush=True)
    os._exit(0)  # freeing everything in order would take time, and could crash


def _try_version(request: TrialRequest, memory_bytes: int | None) -> TrialReport:
    try:
        with request.store.open(request.model, request.number) as version:
            if version.digest != request.digest:
                return TrialReport(failure=LoadFailure("it was replaced in the meantime", "host"))
            model = load_warm_model(version, request.options)
            return TrialReport(measurement=Measurement.of(model))
    except Exception as error:  # noqa: BLE001  the service logs it
        if is_out_of_memory(error):
            limit = "there is" if memory_bytes is None else f"{memory_bytes // 2**20} MiB"
            reason = f"loading it needs more memory than {limit} (SERVICE_LOAD_MEMORY_BYTES)"
            return TrialReport(failure=LoadFailure(reason, "memory", memory_bytes))
        known = isinstance(error, ModelStoreError | OSError)
        return TrialReport(
            failure=explain(error),
            traceback="" if known else traceback.format_exc()[-MAX_TRACE_CHARACTERS:],
        )
