"""Load one version into this process, and say why if it fails."""

import logging
import time
from dataclasses import dataclass, replace
from typing import Final

from model_store.errors import ModelStoreError, StoreUnreadableError
from model_store.version import StoreLayer
from service.engine.loaded_version import LoadedVersion
from service.errors import ConflictError, NotReadyError
from service.versions.registry import Registry, RegistryChange
from service.versions.served_model import ServedModel

_UNREADABLE: Final = (StoreUnreadableError, OSError)
logger = logging.getLogger(__name__)


def reusable_version(model: ServedModel, number: int, layer: StoreLayer) -> LoadedVersion | None:
    """The loaded version, unless it is of another layer or its model was deleted in between."""
    loaded = model.serving.get(number)
    usable = loaded and model.state != "unloading" and loaded.version.layer == layer
    return loaded if usable else None


@dataclass(frozen=True)
class LoadFailure:
    """Why a version cannot serve, in words for clients."""

    reason: str
    unreadable: bool
    """It could not be read, which is no fault of the version."""


def load_version(registry: Registry, name: str, number: int) -> LoadedVersion | LoadFailure:
    """Load, verify, prove and warm up a version. Logs failures and raises nothing."""
    started = time.perf_counter()
    subject = f"version {name}/{number}"
    try:
        loaded = LoadedVersion(registry.store.open(name, number), registry.options_of(name))
    except Exception as error:
        line = f"version failed model={name} version={number} reason={str(error)!r}"
        if isinstance(error, _UNREADABLE):  # tried again at every reconciliation, so logged once
            registry.problems.report(subject, line)
            return LoadFailure("it cannot be read", unreadable=True)
        if isinstance(error, ModelStoreError):
            logger.error(line)  # noqa: TRY400  a traceback adds nothing
            return LoadFailure(str(error), unreadable=False)
        logger.exception(line)
        reason = f"it cannot be loaded ({type(error).__name__}); the server's log has details"
        return LoadFailure(reason, unreadable=False)
    registry.problems.clear(subject)
    logger.info(
        "version ready model=%s version=%d precision=%s duration_ms=%.0f",
        name,
        number,
        loaded.selected_variant.precision,
        (time.perf_counter() - started) * 1e3,
    )
    return loaded


def prove_version(change: RegistryChange, name: str, number: int) -> None:
    """Load a version beside those that serve, even if it failed before.

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
        answering = serving[model.answering.version.number] if model.answering else result
        errors = {failed: reason for failed, reason in model.errors.items() if failed != number}
        change.put(
            replace(
                model,
                state="ready",
                answering=answering,
                serving=serving,
                errors=errors,
                loading=None,
                desired=None,
            )
        )
        return
    if not model.answering and model.state != "unloaded":
        model = replace(model, state="error")
    if result.unreadable:  # no failure of the version: nothing is recorded
        change.put(model)
        raise NotReadyError(f"version {number} of {name} cannot be read; see the server's log")
    errors = {**model.errors, number: result.reason}
    change.put(replace(model, errors=errors, unreadable=model.unreadable - {number}))
    raise ConflictError(
        f"version {number} of {name} cannot serve: {result.reason}", code="version_failed"
    )
