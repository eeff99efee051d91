"""Load one version into this process, and say why if it fails."""

import logging
import time
from contextlib import ExitStack, suppress
from dataclasses import replace

from model_store.errors import ModelStoreError
from model_store.version import StoreLayer, Version
from service.engine.loaded_version import LoadedVersion
from service.errors import ConflictError, NotReadyError
from service.host.thread_priority import run_in_background
from service.versions.candidate import Candidate
from service.versions.load_failure import LoadFailure, explain
from service.versions.registry import Registry
from service.versions.registry_change import RegistryChange
from service.versions.served_model import ServedModel
from service.versions.trials import TrialPassed

logger = logging.getLogger(__name__)


def reusable_version(model: ServedModel, number: int, layer: StoreLayer) -> LoadedVersion | None:
    """The loaded version; None if its layer has changed or its model was deleted meanwhile."""
    loaded = model.serving.get(number)
    usable = loaded and model.state != "unloading" and loaded.version.layer == layer
    return loaded if usable else None


def load_version(registry: Registry, name: str, number: int) -> LoadedVersion | LoadFailure | None:
    """Load a version that has passed its trial. Logs failures and raises nothing.

    Returns:
        The version, or why it cannot serve; None if it is on trial. Built-in versions need no
        trial, because they are as much part of the program as the code that loads them.
    """
    started = time.perf_counter()
    result: LoadedVersion | LoadFailure | None
    try:
        result, error = _open_and_load(registry, name, number), None
    except Exception as raised:  # noqa: BLE001  a broken version must not stop the service
        result, error = explain(raised), raised
    if isinstance(result, LoadFailure):
        _log_failure(registry, name, number, result, error)
    elif result:
        registry.problems.clear(_subject(name, number))
        logger.info(
            "version ready model=%s version=%d precision=%s lone_threads=%d duration_ms=%.0f",
            name,
            number,
            result.selected_variant.precision,
            result.lone_threads or result.threads,
            (time.perf_counter() - started) * 1e3,
        )
    return result


def _open_and_load(
    registry: Registry, name: str, number: int
) -> LoadedVersion | LoadFailure | None:
    trials = registry.trials
    with ExitStack() as unless_loaded:
        version = unless_loaded.enter_context(registry.store.open(name, number, verify=False))
        if trials is None or not _needs_trial(version):
            _verify(version, registry)
            unless_loaded.pop_all()
            return LoadedVersion(
                version,
                registry.options_of(name),
                in_background=registry.loaded,
                batchers=registry.batchers,
            )
        candidate = _candidate(registry, version)
        outcome = trials.outcome_or_start(candidate)
        if not isinstance(outcome, TrialPassed):
            return outcome
        try:
            if outcome.measurement is None:  # else the trial has just verified the files
                _verify(version, registry)
            unless_loaded.pop_all()  # from here on, LoadedVersion closes it
            loaded = LoadedVersion(
                version,
                registry.options_of(name),
                outcome.measurement,
                in_background=registry.loaded,
                batchers=registry.batchers,
            )
        except Exception as error:
            failure = explain(error)
            if not failure.is_fault_of_host:
                raise
            return trials.postpone(candidate, failure)
        trials.forget_postponed(candidate)
        return loaded


def _verify(version: Version, registry: Registry) -> None:
    """Compare the files with their sha256, with low priority if versions already serve."""
    if registry.loaded:
        run_in_background(version.verify)
    else:
        version.verify()


def has_passed_trial(registry: Registry, name: str, number: int) -> bool:
    """Whether a version is known to work here, so that it can serve at once."""
    with suppress(ModelStoreError, OSError), registry.store.open_manifest(name, number) as it:
        trials = registry.trials
        return not trials or not _needs_trial(it) or trials.has_passed(_candidate(registry, it))
    return False


def try_version(registry: Registry, name: str, number: int) -> None:
    """Try a version unless it is known to work; blocks. Call it without the registry's lock.

    A version that failed before is tried again. `prove_version` reports the outcome.

    Raises:
        ModelStoreError: The version cannot be opened.
    """
    with registry.store.open(name, number, verify=False) as version:
        if registry.trials and _needs_trial(version):
            registry.trials.run(_candidate(registry, version))


def _needs_trial(version: Version) -> bool:
    return version.layer != "built-in"


def _candidate(registry: Registry, version: Version) -> Candidate:
    name, number = version.model, version.number
    return Candidate(
        registry.store,
        name,
        number,
        version.digest,
        registry.options_of(name).for_version(version, log=False),
        registry.desired.promotions(name, number, registry.policy_of(name)),
    )


def _log_failure(
    registry: Registry, name: str, number: int, failure: LoadFailure, error: Exception | None
) -> None:
    if failure.is_logged:
        return
    known = error is None or isinstance(error, ModelStoreError | OSError)
    reason = failure.details or failure.reason
    line = f"version failed model={name} version={number} reason={reason!r}"
    if failure.retry_seconds is None:
        logger.error("%s", line, exc_info=None if known else error)
    else:  # it comes again at every reconciliation, so it is logged once
        registry.problems.report(_subject(name, number), line)


def _subject(name: str, number: int) -> str:
    return f"version {name}/{number}"


def prove_version(change: RegistryChange, name: str, number: int) -> None:
    """Load and prove a version in addition to those that serve, even if it failed before.

    If it is not desired, the next reconciliation unloads it again.

    Raises:
        ConflictError: It cannot serve; the reason is kept with the model.
        NotReadyError: It cannot be read.
    """
    registry = change.registry
    layer = registry.store.layer(name)
    model = registry.models.get(name) or ServedModel(name, layer=layer)
    if reusable_version(model, number, layer):
        return
    change.put(replace(model, loading=number))
    result = load_version(registry, name, number)
    if isinstance(result, LoadedVersion):
        serving = {**model.serving, number: result}
        default_version = (
            serving[model.default_version.version.number] if model.default_version else result
        )
        errors = {failed: reason for failed, reason in model.errors.items() if failed != number}
        change.put(
            replace(
                model,
                state="ready",
                default_version=default_version,
                serving=serving,
                errors=errors,
                loading=None,
                desired=None,
            )
        )
        return
    if not model.default_version and model.state != "unloaded":
        model = replace(model, state="error")
    if result is None:
        change.put(model)
        raise NotReadyError(f"version {number} of {name} is on trial; try again when it has ended")
    if result.is_fault_of_host:  # nothing is recorded of the version
        change.put(model)
        raise NotReadyError(
            f"version {number} of {name} cannot be loaded at the moment: {result.reason}; see the "
            "server's log"
        )
    errors = {**model.errors, number: result.reason}
    retry_at = {failed: at for failed, at in model.retry_at.items() if failed != number}
    change.put(replace(model, errors=errors, retry_at=retry_at))
    raise ConflictError(
        f"version {number} of {name} cannot serve: {result.reason}", code="version_failed"
    )
