"""How a registry is changed: its state, and the exclusive right to replace parts of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.errors import ConflictError
from service.versions.desired_versions import Override
from service.versions.draining import DrainingVersions
from service.versions.served_model import Models, ServedModel

if TYPE_CHECKING:
    from service.versions.registry import Registry


@dataclass
class RegistryState:
    """Of a registry. Only `RegistryChange` and `Registry.close` change it, under the lock."""

    models: Models = field(default_factory=dict)
    overrides: dict[str, dict[int, Override]] = field(default_factory=dict)
    draining: DrainingVersions = field(default_factory=DrainingVersions)
    loaded: bool = False
    error: str | None = None
    closed: bool = False


class RegistryChange:
    """The right to change a registry, valid inside `Registry.exclusive()`."""

    def __init__(self, registry: "Registry", state: RegistryState) -> None:
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
