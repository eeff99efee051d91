"""The models and versions that this process serves, and leases on them for requests."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Literal

from model_store.store import ModelStore
from service.engine.loaded_version import LoadedVersion
from service.engine.lone_run import ProcessBatchers
from service.engine.options import EngineOptions
from service.errors import NotFoundError, NotReadyError
from service.log_on_change import LogOnChange
from service.versions.desired_versions import DEFAULT_POLICY, DesiredVersionsReader, Override
from service.versions.readiness import RequiredModels
from service.versions.registry_change import RegistryChange, RegistryState
from service.versions.served_model import Models, ModelState
from service.versions.trials import Trials
from service.versions.version_policy import VersionPolicy

NumberedState = Literal["loading", "ready", "unloading", "error"]
_WHY_NOT_SERVED: Final[Mapping[ModelState, str]] = {
    "loading": "is still loading",
    "unloaded": "has no loaded version because an operator unloaded it",
}
logger = logging.getLogger(__name__)


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
        self.batchers = ProcessBatchers()
        self.policy_of = policy_of
        self.default_model = default_model
        """The model that answers /v1/predict. It never changes while the service runs."""
        self.required = required or RequiredModels(default_model)
        self.desired = DesiredVersionsReader(store)
        self.problems = LogOnChange(logger)
        self.created_at = time.monotonic()
        self.watcher_failed = False
        """Set if the loop that follows the store has ended with an error."""
        self.why_others_are_not_ready: Callable[[], str | None] = lambda: None
        """Why other workers of the service are not ready; None if they are."""
        self._lock = threading.Lock()
        self._state = RegistryState()
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
        return (
            not self._stopping
            and self.loaded
            and self.required.all_serve(self.models)
            and not self.stopped_parts
        )

    @property
    def stopped_parts(self) -> list[str]:
        """Parts of this process that have ended unexpectedly; only a restart brings them back."""
        if self._stopping:
            return []
        stopped = [
            f"{part} of {loaded.version}"
            for _, model in sorted(self.models.items())
            for loaded in model.serving.values()
            if (part := loaded.stopped_part)
        ]
        return [*stopped, *(["the watcher of the model store"] if self.watcher_failed else [])]

    @property
    def service_ready(self) -> bool:
        """True if this process and all other workers of the service are ready."""
        return self.ready and self.why_others_are_not_ready() is None

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

    def all_overrides(self) -> dict[str, dict[int, Override]]:
        return {name: dict(overrides) for name, overrides in self._state.overrides.items()}

    def set_overrides(self, overrides: Mapping[str, Mapping[int, Override]]) -> None:
        """Replace what an operator decided. It takes effect at the next reconciliation."""
        with self.exclusive():
            self._state.overrides = {name: dict(each) for name, each in overrides.items()}

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
    def exclusive(self) -> Iterator[RegistryChange]:
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


def _names(models: Models) -> str:
    return ", ".join(sorted(models)) or "none"
