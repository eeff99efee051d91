"""The sessions of a version: proven, warmed up, and measured on this machine."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Self

from pydantic import Field, ValidationError

from model_store.errors import ModelStoreError
from model_store.golden import prove_decode
from model_store.manifest import Precision
from model_store.providers import CPU, batch_sizes, count_devices, default_batch_size
from model_store.session import Session, SessionOptions
from model_store.timing import Clock
from model_store.validation import DeferredFrozenModel
from model_store.version import Version
from service.engine.lone_run import LoneSession, find_lone_session, load_lone_session
from service.engine.measurement_cache import measurement_key
from service.engine.options import EngineOptions
from service.engine.variant_selection import (
    SelectedVariant,
    load_proven,
    measure_variants,
    select_variant,
)
from service.engine.warm_up import (
    LONGEST_RUN_SECONDS,
    STABLE_ROUNDS,
    STABLE_ROUNDS_OF_CPU_TIME,
    warm_up,
)
from service.host.malloc import trim_memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmModel:
    """Proven sessions of the selected variant.

    Attributes:
        selected_variant: The variant that serves.
        sessions: One per device. The first is `selected_variant.session`.
        seconds: Duration of one run in seconds, by batch size.
        warm_up_seconds: How long all runs of the warm-up took, here or in the trial.
        lone: Runs lone images, if that is faster.
    """

    selected_variant: SelectedVariant
    sessions: list[Session]
    seconds: dict[int, float]
    warm_up_seconds: float
    lone: LoneSession | None = None


class Measurement(DeferredFrozenModel):
    """A `WarmModel` without its sessions, to send it to another process on this machine.

    `lone_seconds` is None if lone images are run like others.
    """

    precision: Precision
    note: str | None
    left_out: Mapping[Precision, str]
    milliseconds: Mapping[Precision, tuple[float, ...]]
    seconds: Annotated[dict[int, float], Field(min_length=1)]
    warm_up_seconds: float
    lone_seconds: float | None = None

    @classmethod
    def of(cls, model: WarmModel) -> Self:
        selected = model.selected_variant
        return cls(
            precision=selected.precision,
            note=selected.note,
            left_out=selected.left_out,
            milliseconds=selected.milliseconds,
            seconds=model.seconds,
            warm_up_seconds=model.warm_up_seconds,
            lone_seconds=model.lone.seconds if model.lone else None,
        )


def load_warm_model(version: Version, options: EngineOptions) -> WarmModel:
    """Select the variant, prove it and warm it up.

    CPU times that an earlier start on this machine has measured are reused.

    Raises:
        ModelStoreError: The version cannot be loaded or run, or its golden proof fails.
    """
    session_options, _ = _session_options(version, options)
    if options.measurements is None or not _measures_cpu_time(session_options):
        return _measure_warm_model(version, options)
    key = measurement_key(version, options)
    if data := options.measurements.read(key):
        try:
            measured = Measurement.model_validate_json(data)
            for image in version.manifest.golden:
                prove_decode(version, image)
            model = load_measured(version, options, measured)
            if model.lone is None:  # other programs may have distorted the comparison
                model = _add_lone_session(version, options, model)
        except (ValidationError, ModelStoreError) as error:  # measuring again raises a real one
            logger.warning("measurement not used version=%s reason=%s", version, error)
        else:
            if model.lone:
                options.measurements.write(key, Measurement.of(model).model_dump_json().encode())
            return model
    model = _measure_warm_model(version, options)
    options.measurements.write(key, Measurement.of(model).model_dump_json().encode())
    return model


def _measure_warm_model(version: Version, options: EngineOptions) -> WarmModel:
    session_options, largest = _session_options(version, options)
    clock = _clock(session_options)
    measure = partial(measure_variants, clock=clock)
    selected = select_variant(version, options.precision, session_options, measure)
    sessions = [selected.session, *_on_other_devices(version, selected.precision, session_options)]
    began = time.perf_counter()
    longest_seconds = math.inf if options.max_batch_size else LONGEST_RUN_SECONDS
    rounds = STABLE_ROUNDS_OF_CPU_TIME if clock is time.thread_time else STABLE_ROUNDS
    (seconds, *_) = [
        warm_up(
            session.run,
            version.manifest.input,
            len(version.manifest.class_names),
            largest,
            session_options.batch_sizes,
            longest_seconds,
            clock,
            rounds,
        )
        for session in sessions
    ]
    warm_up_seconds = time.perf_counter() - began
    model = _add_lone_session(
        version, options, WarmModel(selected, sessions, seconds, warm_up_seconds)
    )
    trim_memory()
    return model


def _add_lone_session(version: Version, options: EngineOptions, model: WarmModel) -> WarmModel:
    """The model with a session for lone images, if the options ask for it and it is faster."""
    lone_options = _lone_options(version, options)
    if lone_options is None:
        return model
    selected = model.selected_variant
    run_seconds = model.seconds[min(model.seconds)]
    try:
        lone = find_lone_session(
            version, selected.precision, lone_options, selected.session, run_seconds
        )
    except ModelStoreError as error:
        _log_missing_lone_session(version, error)
        return model
    return replace(model, lone=lone)


def _log_missing_lone_session(version: Version, error: ModelStoreError) -> None:
    logger.warning("lone images get one thread version=%s reason=%s", version, error)


def _lone_options(version: Version, options: EngineOptions) -> SessionOptions | None:
    if options.lone_threads is None:
        return None
    session_options, _ = _session_options(version, options)
    return replace(session_options, intra_op_num_threads=options.lone_threads)


def load_measured(version: Version, options: EngineOptions, measured: Measurement) -> WarmModel:
    """Load and prove only the variant that was selected elsewhere, and take over its timings.

    A process with another priority gets other wall-clock times. So only CPU times are taken over;
    otherwise this measures again.

    Raises:
        ModelStoreError: It cannot be loaded or run, or its golden proof fails.
    """
    session_options, _ = _session_options(version, options)
    if not _measures_cpu_time(session_options):
        return _measure_warm_model(version, options)  # each process also compiles sizes for itself
    session = load_proven(version, version.variant(measured.precision), session_options)
    sessions = [session, *_on_other_devices(version, measured.precision, session_options)]
    for each in sessions:
        warm_up(each.run, version.manifest.input, len(version.manifest.class_names), largest=1)
    selected = SelectedVariant(
        measured.precision, session, measured.note, measured.left_out, measured.milliseconds
    )
    lone, lone_options = None, _lone_options(version, options)
    if lone_options and measured.lone_seconds is not None:
        try:
            lone_session = load_lone_session(version, measured.precision, lone_options)
            lone = LoneSession(lone_session, measured.lone_seconds)
        except ModelStoreError as error:
            _log_missing_lone_session(version, error)
    return WarmModel(selected, sessions, measured.seconds, measured.warm_up_seconds, lone)


def _session_options(version: Version, options: EngineOptions) -> tuple[SessionOptions, int]:
    """The options of the sessions, and the largest batch size to try."""
    providers = options.session.providers
    largest = min(
        options.max_batch_size or default_batch_size(providers), version.manifest.max_batch_size
    )
    return replace(options.session, batch_sizes=batch_sizes(providers, largest)), largest


def _measures_cpu_time(options: SessionOptions) -> bool:
    return not options.batch_sizes and _clock(options) is time.thread_time


def _clock(options: SessionOptions) -> Clock:
    """CPU time of the calling thread if it does all the work, otherwise wall-clock time."""
    alone = tuple(options.providers) == (CPU,) and options.intra_op_num_threads == 1
    return time.thread_time if alone else time.perf_counter


def _on_other_devices(
    version: Version, precision: Precision, options: SessionOptions
) -> list[Session]:
    return [
        load_proven(version, version.variant(precision), replace(options, device=device))
        for device in range(1, count_devices(options.providers))
    ]
