"""The reconciler: brings a registry in line with its store."""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from model_store.errors import AliasError, ModelStoreError, StoreUnreadableError
from model_store.store import ModelContents
from service.engine.loaded_version import LoadedVersion
from service.errors import NotReadyError
from service.versions.desired_versions import DesiredVersions, Override
from service.versions.due import any_due, failure_not_due, waits_for_trials
from service.versions.load_failure import LoadFailure
from service.versions.loading import has_passed_trial, load_version, reusable_version
from service.versions.registry import Registry
from service.versions.registry_change import RegistryChange
from service.versions.served_model import ModelState, ServedModel

logger = logging.getLogger(__name__)


def reconcile(registry: Registry) -> None:
    """Bring the registry in line with its store; blocks while another change is made."""
    with suppress(NotReadyError), registry.exclusive() as change:  # nothing to do once it is closed
        apply_store(change)


def adopt_overrides(registry: Registry, overrides: Mapping[str, Mapping[int, Override]]) -> None:
    """Apply what an operator decided in another worker. Failed versions are tried again."""
    with suppress(NotReadyError):
        registry.set_overrides(overrides)
        with registry.exclusive() as change:
            for model in list(registry.models.values()):
                if model.errors:
                    change.put(replace(model, desired=None))
            apply_store(change)


def apply_store(change: RegistryChange) -> None:
    """Load the desired versions of every model and let the others drain. Raises nothing.

    A version that serves stays until its successor is ready. A version that fails is recorded with
    the reason, and the next candidate is tried. An unreadable store is recorded and changes nothing
    else.
    """
    registry = change.registry
    try:
        # In this order: a store that appears in between is complete at the next reconciliation.
        missing, contents = registry.store.has_not_appeared, registry.store.contents()
        change.set_error(_describe_missing(registry.store.location) if missing else None)
        if missing:
            registry.problems.report("store", f"model store unreadable reason={registry.error!r}")
        _apply_contents(change, contents, complete=not missing)
    except Exception as error:  # noqa: BLE001  the service keeps what it serves
        known = isinstance(error, ModelStoreError)
        reason = str(error) if known else "loading the models failed"
        change.set_error(reason)
        registry.problems.report(
            "store", f"model store unreadable reason={reason!r}", None if known else error
        )
    else:
        if not missing and registry.problems.clear("store"):
            logger.info("model store readable again")
    finally:
        change.trim_memory()


def _describe_missing(root: str) -> str:
    return (
        f"the model store {root} does not exist, and only built-in models serve; "
        "correct the path, or create it with --create-store"
    )


def _apply_contents(
    change: RegistryChange, contents: Mapping[str, ModelContents], *, complete: bool
) -> None:
    """Apply the contents of a store; without its published layer they are not `complete`."""
    registry = change.registry
    desired = _read_desired(change, contents)
    if not registry.loaded:
        change.put_first(
            {name: ServedModel(name, layer=wanted.layer) for name, wanted in desired.items()}
        )
    for name, wanted in desired.items():
        _apply_model(change, name, wanted)
    if registry.stopping or not complete:
        return
    # Remove deleted models last, so that a new model can replace one of them first.
    for name in sorted(registry.models.keys() - set(contents)):
        _remove_model(change, name)
    registry.desired.keep_only(contents)
    if registry.loaded or not waits_for_trials(registry):
        change.finish()


def _read_desired(
    change: RegistryChange, contents: Mapping[str, ModelContents]
) -> dict[str, DesiredVersions]:
    """The desired versions of each model; a model that cannot be read keeps what it serves."""
    registry, desired = change.registry, {}
    for name, model_contents in contents.items():
        subject = f"model {name}"
        try:
            if model_contents.error:
                raise StoreUnreadableError(model_contents.error)
            wanted = registry.desired.read(name, model_contents, registry.policy_of(name))
        except (ModelStoreError, OSError) as error:
            model = registry.models.get(name) or ServedModel(name)
            state = model.state if model.default_version else "error"
            reason = str(error) if isinstance(error, AliasError) else "its directory cannot be read"
            registry.problems.report(
                subject, f"model unreadable model={name} reason={str(error)!r}"
            )
            change.put(replace(model, state=state, error=reason))
        else:
            registry.problems.clear(subject)
            overrides = tuple(sorted(registry.overrides(name).items()))
            desired[name] = replace(wanted, overrides=overrides)
    return desired


def _apply_model(change: RegistryChange, name: str, desired: DesiredVersions) -> None:
    """Load the best candidates that pass their proof, and the versions that an operator loaded.

    Every step is published immediately. Versions that served before stay until the last step, and
    longer if no candidate passes. While a version is on trial, only versions that are known to work
    serve in its place. While the desired versions are unchanged, a failed version is retried only
    if it may pass now.
    """
    registry = change.registry
    model = change.registry.models.get(name) or ServedModel(name)
    unchanged = desired == model.desired
    if unchanged and not (any_due(model) or model.error or model.on_trial):
        return
    serving: dict[int, LoadedVersion] = {}
    failures: dict[int, LoadFailure] = {}
    on_trial: set[int] = set()
    missing = desired.selection.count
    forced = desired.overridden("load")
    for number in dict.fromkeys((*desired.candidates, *forced)):
        if registry.stopping:
            return
        if not missing and number not in forced:
            continue
        loaded = reusable_version(model, number, desired.layer)
        if loaded is None:
            if unchanged and (failure := failure_not_due(model, number)):
                failures[number] = failure
                continue
            if on_trial and number not in forced and not has_passed_trial(registry, name, number):
                continue
            change.put(_while_loading(model, serving, desired, number))
            result = load_version(registry, name, number)
            if result is None:
                on_trial.add(number)
                continue
            if isinstance(result, LoadFailure):
                failures[number] = result
                continue
            loaded = result
        serving[number] = loaded
        missing = max(missing - 1, 0)
        change.put(_while_loading(model, serving, desired, None))
    change.put(_final(model, serving, desired, failures, frozenset(on_trial)))


def _while_loading(
    model: ServedModel,
    ready: Mapping[int, LoadedVersion],
    desired: DesiredVersions,
    loading: int | None,
) -> ServedModel:
    """An intermediate step: ready versions serve in addition to those that served before."""
    serving = {**model.serving, **ready}
    if not serving:
        return replace(model, state="loading", loading=loading)
    default_version = serving[desired.choose_default(serving)]
    return replace(
        model,
        state="ready" if ready else model.state,
        layer=default_version.version.layer,
        default_version=default_version,
        serving=serving,
        loading=loading,
    )


def _final(
    model: ServedModel,
    ready: Mapping[int, LoadedVersion],
    desired: DesiredVersions,
    failures: Mapping[int, LoadFailure],
    on_trial: frozenset[int],
) -> ServedModel:
    """The last step: only ready versions serve. If none is ready, the previous ones stay."""
    unloaded = desired.overridden("unload")
    serving = ready or {
        number: loaded for number, loaded in model.serving.items() if number not in unloaded
    }
    default_version = serving[desired.choose_default(serving)] if serving else None
    without: ModelState = "unloaded" if unloaded and not failures else "error"
    if on_trial:
        without = "loading"
    return ServedModel(
        model.name,
        state="ready" if serving else without,
        layer=default_version.version.layer if default_version else desired.layer,
        default_version=default_version,
        serving=serving,
        errors={number: failure.reason for number, failure in failures.items()},
        retry_at={
            number: time.monotonic() + failure.retry_seconds
            for number, failure in failures.items()
            if failure.retry_seconds is not None
        },
        on_trial=on_trial,
        desired=desired,
    )


def _remove_model(change: RegistryChange, name: str) -> None:
    """Remove a model that was deleted from the store, unless readiness depends on it."""
    registry = change.registry
    model = registry.models[name]
    if not registry.ready or registry.required.is_ready_without(
        registry.models, name, deleted=True
    ):
        logger.info("model removed model=%s", name)
        change.remove(name)
    elif model.state != "unloading":
        logger.warning("model deleted from store, still served model=%s", name)
        reason = (
            "it was deleted from the store; it still serves because this replica would not be "
            "ready without it"
        )
        change.put(replace(model, state="unloading", error=reason, desired=None))
