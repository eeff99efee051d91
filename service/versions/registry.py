"""The models and versions that this process serves, and leases on them for requests."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from model_store.store import ModelStore
from service.engine.loaded_version import LoadedVersion
from service.engine.options import EngineOptions
from service.errors import ConflictError, NotFoundError, NotReadyError
from service.log_on_change import LogOnChange
from service.versions.desired_versions import DEFAULT_POLICY, DesiredVersionsReader, Override
from service.versions.draining import DrainingVersions
from service.versions.readiness import RequiredModels
from service.versions.served_model import Models, ModelState, ServedModel
from service.versions.trials import Trials
from service.versions.version_policy import VersionPolicy

NumberedState = Literal["loading", "ready", "unloading", "error"]
_WHY_NOT_SERVED: Final[Mapping[ModelState, str]] = {
    "loading": "is still loading",
    "unloaded": "has no loaded version because an operator unloaded it",
}
logger = logging.getLogger(__name__)


@dataclass
class _State:
    """Mutable state. Only `RegistryChange` and `Registry.close` change it, under the lock."""

    models: Models = field(default_factory=dict)
    overrides: dict[str, dict[int, Override]] = field(default_factory=dict)
    draining: DrainingVersions = field(default_factory=DrainingVersions)
    loaded: bool = False
    error: str | None = None
    closed: bool = False


class Registry:
    """The models of a store as this process serves them.

    Reading needs no lock: `models` is immutable and replaced by one assignment. Changes need a
    `RegistryChange` from `exclusive()`. A version is closed only after it is removed from `models`,
    and a closed version gives no leases, so no request runs on one.
    """

    def __init__(
        self,
        store: ModelStore,
        options_of: Callable[[str], EngineOptions],
        default_model: str | None = None,
        policy_of: Callable[[str], VersionPolicy] = lambda _: DEFAULT_POLICY,
        required: RequiredModels | None = None,
        trials: Trials | None = None,
    ) -> None:
        self.store = store
        self.trials = trials
        self.options_of = options_of
        self.policy_of = policy_of
        self.default_model = default_model
        """The model that answers /v1/predict. It never changes while the service runs."""
        self.required = required or RequiredModels(default_model)
        self.desired = DesiredVersionsReader(store)
        self.problems = LogOnChange(logger)
        self.created_at = time.monotonic()
        self._lock = threading.Lock()
        self._state = _State()
        self._stopping = False

    @property
    def models(self) -> Models:
        return self._state.models

    @property
    def loaded(self) -> bool:
        """True after the store was first reconciled."""
        return self._state.loaded

    @property
    def starting(self) -> bool:
        """True until the models are loaded, or it is clear that they cannot be."""
        return not (self.loaded or self.error or self._stopping)

    @property
    def error(self) -> str | None:
        """Why the store could not be read when it was last tried."""
        return self._state.error

    @property
    def ready(self) -> bool:
        """True if the models are loaded, and every required model and at least one serves."""
        return not self._stopping and self.loaded and self.required.all_serve(self.models)

    @property
    def stopping(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        """Report not ready, end all trials and load no further versions.

        A load in progress is completed.
        """
        self._stopping = True
        if self.trials:
            self.trials.stop()

    def overrides(self, name: str) -> Mapping[int, Override]:
        return self._state.overrides.get(name, {})

    def states(self, name: str) -> dict[int, NumberedState]:
        """The state of each known version of a model, without access to the store."""
        model = self.models.get(name)
        states: dict[int, NumberedState] = dict.fromkeys(
            self._state.draining.numbers(name), "unloading"
        )
        if model:
            states |= dict.fromkeys(model.serving, "ready")
            states |= dict.fromkeys(model.errors, "error")
            states |= dict.fromkeys(model.on_trial, "loading")
            states |= {model.loading: "loading"} if model.loading else {}
        return states

    def find(self, name: str | None, version: int | None = None) -> LoadedVersion:
        """Find a serving version.

        Args:
            name: The model, or None for the default model.
            version: The version, or None for the one that answers without a number.

        Raises:
            NotFoundError: There is no such model or version, or no default model.
            NotReadyError: No version of the model serves yet.
        """
        models = self.models
        if not models and not self.loaded:
            raise NotReadyError(
                "the model store cannot be read" if self.error else "the models are still loading"
            )
        name = name or self.default_model
        if name is None and models:
            raise NotFoundError(
                "there is no default model; name a model in the path, or start the service with "
                "SERVICE_DEFAULT_MODEL (--default-model); "
                f"available models: {_names(models)}",
                code="no_default_model",
            )
        if name is None:
            raise NotReadyError("the model store is empty")
        model = models.get(name)
        if model is None and self.error and not self.loaded:
            raise NotReadyError(f"the model store cannot be read, and {name} is not built in")
        if model is None:
            raise NotFoundError(f"there is no model {name!r}; available models: {_names(models)}")
        if model.default_version is None:
            reason = _WHY_NOT_SERVED.get(model.state, "has no version that passed its proof")
            raise NotReadyError(f"model {name} {reason}; GET /v1/models/{name} shows details")
        found = model.default_version if version is None else model.serving.get(version)
        if found is None:
            numbers = ", ".join(map(str, sorted(model.serving)))
            raise NotFoundError(
                f"version {version} of model {name} is not served; served versions: {numbers}",
                code="version_not_found",
            )
        return found

    def lease(self, name: str | None, version: int | None = None) -> "Lease":
        """Keep a version open for one request. Arguments and errors are those of `find`."""
        while not (loaded := self.find(name, version)).take_lease():
            pass  # it was replaced after it was found
        return Lease(loaded)

    @contextmanager
    def exclusive(self) -> Iterator["RegistryChange"]:
        """Wait for the exclusive right to change the registry. Raises NotReadyError if closed."""
        with self._lock:
            if self._state.closed:
                raise NotReadyError("the service is shutting down")
            yield RegistryChange(self, self._state)

    def close(self) -> None:
        """Unload everything; blocks until all requests have ended."""
        self.stop()
        with self._lock:
            self._state.closed = True
            serving = [
                loaded for model in self.models.values() for loaded in model.serving.values()
            ]
            self._state.models = {
                name: replace(model, state="unloading", default_version=None, serving={})
                for name, model in self.models.items()
            }
        for loaded in serving:
            loaded.close()
        self._state.draining.join()
        if self.trials:
            self.trials.join()


class Lease:
    """Keeps a version open until its context ends."""

    __slots__ = ("_loaded",)

    def __init__(self, loaded: LoadedVersion) -> None:
        self._loaded = loaded

    def __enter__(self) -> LoadedVersion:
        return self._loaded

    def __exit__(self, *_: object) -> None:
        self._loaded.return_lease()


class RegistryChange:
    """The right to change a registry, valid inside `Registry.exclusive()`."""

    def __init__(self, registry: Registry, state: _State) -> None:
        self.registry = registry
        self._state = state

    def put(self, model: ServedModel) -> None:
        """Add or replace a model; versions that it no longer serves drain."""
        before = self._state.models.get(model.name)
        self._state.models = {**self._state.models, model.name: model}
        for loaded in before.serving.values() if before else ():
            if loaded is not model.serving.get(loaded.version.number):
                self._state.draining.drain(loaded)

    def put_first(self, models: Models) -> None:
        """Add models in one step. Models that exist already are kept."""
        self._state.models = {**models, **self._state.models}

    def remove(self, name: str) -> None:
        """Remove a model and its overrides; its versions drain."""
        model = self._state.models[name]
        self._state.models = {
            other: served for other, served in self._state.models.items() if other != name
        }
        self._state.overrides.pop(name, None)
        self.registry.required.forget(name)
        for loaded in model.serving.values():
            self._state.draining.drain(loaded)

    def override(self, name: str, number: int, override: Override | None) -> None:
        """Load or unload a version whatever the policy selects; None leaves it to the policy again.

        Takes effect at the next reconciliation.

        Raises:
            ConflictError: This replica would not be ready without the version.
        """
        registry = self.registry
        model = registry.models.get(name)
        if override == "unload" and model is not None and list(model.serving) == [number]:
            self.check_not_required(name)
        others = {key: what for key, what in registry.overrides(name).items() if key != number}
        self._state.overrides[name] = {**others, number: override} if override else others

    def check_not_required(self, name: str) -> None:
        """Raise ConflictError if this replica is ready, and would not be without the model."""
        registry = self.registry
        if registry.ready and not registry.required.is_ready_without(registry.models, name):
            numbers = ", ".join(map(str, sorted(registry.models[name].serving)))
            raise ConflictError(
                f"version {numbers} is the last one of model {name}, which must serve for this "
                "replica to be ready (SERVICE_REQUIRED_MODELS); load another version first",
                code="last_version",
            )

    def set_error(self, error: str | None) -> None:
        """Record why the store cannot be read; None if it can."""
        self._state.error = error

    def finish(self) -> None:
        """Record that the store was reconciled."""
        if not self._state.loaded:
            self.registry.required.record_startup(self._state.models, self.registry.default_model)
        self._state.loaded = True

    def trim_memory(self) -> None:
        """Return the memory of drained versions to the system."""
        self._state.draining.trim()


def _names(models: Models) -> str:
    return ", ".join(sorted(models)) or "none"
