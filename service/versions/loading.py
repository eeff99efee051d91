"""Load one version into this process, and say why if it fails."""

import logging
import re
import time
from dataclasses import dataclass, replace
from typing import Final

from model_store.errors import ModelStoreError, StoreUnreadableError
from model_store.names import printable
from model_store.version import StoreLayer
from service.engine.loaded_version import LoadedVersion
from service.errors import ConflictError, NotReadyError
from service.versions.registry import Registry, RegistryChange
from service.versions.served_model import ServedModel

_SHORTAGES: Final = re.compile(
    "can't start new thread|pthread_create|bad_alloc|Resource temporarily unavailable|"
    "Too many open files|Cannot allocate memory|Failed to allocate memory"
)
"""Messages of Python and ONNX Runtime if the host is short of threads, files or memory."""
logger = logging.getLogger(__name__)


def reusable_version(model: ServedModel, number: int, layer: StoreLayer) -> LoadedVersion | None:
    """The loaded version; None if its layer has changed or its model was deleted meanwhile."""
    loaded = model.serving.get(number)
    usable = loaded and model.state != "unloading" and loaded.version.layer == layer
    return loaded if usable else None


@dataclass(frozen=True)
class LoadFailure:
    """Why a version cannot serve, in words for clients."""

    reason: str
    transient: bool
    """The host or the disk caused the failure, not the version, so loading is retried."""


def load_version(registry: Registry, name: str, number: int) -> LoadedVersion | LoadFailure:
    """Load, verify, prove and warm up a version. Logs failures and raises nothing."""
    started = time.perf_counter()
    subject = f"version {name}/{number}"
    try:
        loaded = LoadedVersion(registry.store.open(name, number), registry.options_of(name))
    except Exception as error:
        line = f"version failed model={name} version={number} reason={str(error)!r}"
        if reason := _transient_reason(error):  # tried at every reconciliation, so logged once
            registry.problems.report(subject, line)
            return LoadFailure(reason, transient=True)
        if isinstance(error, ModelStoreError):
            logger.error(line)  # noqa: TRY400  a traceback adds nothing
            return LoadFailure(printable(str(error)), transient=False)
        logger.exception(line)
        reason = f"it cannot be loaded ({type(error).__name__}); the server's log has details"
        return LoadFailure(reason, transient=False)
    registry.problems.clear(subject)
    logger.info(
        "version ready model=%s version=%d precision=%s duration_ms=%.0f",
        name,
        number,
        loaded.selected_variant.precision,
        (time.perf_counter() - started) * 1e3,
    )
    return loaded


def _transient_reason(error: BaseException) -> str | None:
    """Why loading may succeed later without a change of the version, or None."""
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    if any(isinstance(cause, MemoryError) or _SHORTAGES.search(str(cause)) for cause in causes):
        return "this replica is short of threads, memory or file descriptors; it is tried again"
    if isinstance(error, StoreUnreadableError | OSError):
        return "it cannot be read"
    return None


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
    if result.transient:  # the version is not at fault, so nothing is recorded
        change.put(model)
        raise NotReadyError(
            f"version {number} of {name} cannot be loaded at the moment: {result.reason}; see the "
            "server's log"
        )
    errors = {**model.errors, number: result.reason}
    change.put(replace(model, errors=errors, transient=model.transient - {number}))
    raise ConflictError(
        f"version {number} of {name} cannot serve: {result.reason}", code="version_failed"
    )
