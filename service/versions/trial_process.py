"""The program of a trial: load, prove and warm up one version, within limits.

`service.versions.trial` starts it. Standard input is a pickled `TrialRequest`. Standard output is
one line with a `TrialStart` before the version is opened, and one with a `TrialReport` at the end.
"""

import os
import pickle
import resource
import sys
import traceback
from dataclasses import dataclass
from typing import Final, Literal

from model_store.errors import ModelStoreError
from model_store.store import ModelStore
from model_store.validation import RareModel
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
from service.versions.load_failure import explain, is_out_of_memory

NICENESS: Final = 15
"""Below the threads that run models (10), so that a trial hardly slows requests down."""
AVAILABLE_SHARE: Final = 0.9
"""A trial may allocate this share of the available memory; the service needs the rest."""
MAX_TRACE_CHARACTERS: Final = 8000


@dataclass(frozen=True)
class TrialRequest:
    """What to try, and how it would be run; by default with most of the available memory."""

    store: ModelStore
    model: str
    number: int
    digest: str
    options: EngineOptions
    memory_bytes: int | None = None


class TrialStart(RareModel):
    """The limit of memory in bytes; None if it is not known how much there is."""

    memory_bytes: int | None


class TrialReport(RareModel):
    """How a trial ended. `traceback` is for the log if the error is not a known one."""

    result: Literal["passed", "failed", "host_failed", "out_of_memory"]
    measurement: Measurement | None = None
    reason: str = ""
    traceback: str = ""


def main() -> None:
    ignore_signals_for_the_service()
    end_with_the_service()
    be_killed_first()
    write_no_core_dumps()
    os.nice(NICENESS)
    bound_malloc()
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # so that nothing else is written to the output
    request: TrialRequest = pickle.load(sys.stdin.buffer)  # noqa: S301  the service wrote it
    memory_bytes = request.memory_bytes or _available_share()
    print(TrialStart(memory_bytes=memory_bytes).model_dump_json(), file=output, flush=True)
    # Mapped weights are not counted: the kernel can drop and read them again.
    in_use = memory_in_use(resource.RLIMIT_DATA)
    if memory_bytes is not None and in_use is not None:
        limit_memory(in_use + memory_bytes, resource.RLIMIT_DATA)
    print(_try_version(request).model_dump_json(), file=output, flush=True)
    os._exit(0)  # freeing everything in order would take time, and could crash


def _available_share() -> int | None:
    available = available_memory()
    return None if available is None else int(available * AVAILABLE_SHARE)


def _try_version(request: TrialRequest) -> TrialReport:
    try:
        with request.store.open(request.model, request.number) as version:
            if version.digest != request.digest:
                return TrialReport(result="host_failed", reason="it was replaced in the meantime")
            model = load_warm_model(version, request.options.for_version(version))
            return TrialReport(result="passed", measurement=Measurement.of(model))
    except Exception as error:  # noqa: BLE001  the service logs it
        if is_out_of_memory(error):
            return TrialReport(result="out_of_memory")
        failure = explain(error)
        known = isinstance(error, ModelStoreError | OSError)
        return TrialReport(
            result="host_failed" if failure.transient else "failed",
            reason=failure.reason,
            traceback="" if known else traceback.format_exc()[-MAX_TRACE_CHARACTERS:],
        )
