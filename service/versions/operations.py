"""Operations of an operator on a running replica: load, unload, release, promote, roll back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from model_store.aliases import PRODUCTION
from model_store.errors import (
    AliasError,
    InvalidNameError,
    ModelNotFoundError,
    ModelStoreError,
    StoreReadOnlyError,
    StoreUnreadableError,
    VersionNotFoundError,
)
from service.errors import BadRequestError, ConflictError, NotFoundError, NotReadyError
from service.versions.loading import has_passed_trial, prove_version, try_version
from service.versions.reconciler import apply_store
from service.versions.registry import Registry
from service.versions.registry_change import RegistryChange
from service.versions.views import ModelDetail, describe_model


class Operations:
    """Operations run one at a time, block until they are done and return the model's new state.

    `load`, `unload` and `release` affect this replica alone, until it restarts. `promote` and
    `roll_back` prove the version here and then move an alias in the store, which every replica
    follows.

    All of them raise ServiceError.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def load(self, model: str, version: int) -> ModelDetail:
        """Serve a version in addition to those of the policy, even if it failed before."""
        self._try(model, version)
        with self._change(model, version) as change:
            prove_version(change, model, version)
            change.override(model, version, "load")
        return self._describe(model)

    def unload(self, model: str, version: int) -> ModelDetail:
        """Stop serving a version, whatever the policy selects. Requests in flight are completed.

        If it is the last one that serves, the policy's next candidate is loaded first.
        """
        for number in self._successors(model, version):
            self._try(model, number)
            if has_passed_trial(self._registry, model, number):
                break
        with self._change(model, version) as change:
            self._prove_successor(change, model, version)
            before = self._registry.overrides(model).get(version)
            change.override(model, version, "unload")
            apply_store(change)
            served = self._registry.models.get(model)
            if served and version in served.serving:
                change.override(model, version, before)
                reason = served.error or "the model store cannot be read"
                raise ConflictError(
                    f"version {version} of {model} is still served: {reason}", code="not_unloaded"
                )
        return self._describe(model)

    def load_model(self, model: str) -> ModelDetail:
        """Serve what the policy selects, even if it was unloaded here or failed before."""
        for number in self._candidates(model):
            self._try(model, number)
            if has_passed_trial(self._registry, model, number):
                break
        with self._change(model) as change:
            self._registry.store.versions(model)  # raises if there is no such model
            for number, override in self._registry.overrides(model).items():
                if override == "unload":
                    change.override(model, number, None)
            if served := self._registry.models.get(model):
                change.put(replace(served, desired=None))  # so that failed versions are retried
        served = self._registry.models.get(model)
        if served and served.default_version is None:
            reason = "; ".join(served.errors.values()) or served.error or "see the server's log"
            raise ConflictError(f"no version of {model} can serve: {reason}", code="version_failed")
        return self._describe(model)

    def unload_model(self, model: str) -> ModelDetail:
        """Stop serving a model: unload all versions that the store has now."""
        with self._change(model) as change:
            served = self._registry.models.get(model)
            if served and served.serving:
                change.check_not_required(model)
            for number in self._registry.store.versions(model):
                change.override(model, number, "unload")
        return self._describe(model)

    def release(self, model: str, version: int) -> ModelDetail:
        """Undo `load` or `unload` of a version, even if it is no longer in the store."""
        overridden = version in self._registry.overrides(model)
        with self._change(model, None if overridden else version) as change:
            change.override(model, version, None)
        return self._describe(model)

    def promote(
        self, model: str, version: int, reason: str, by: str, alias: str = PRODUCTION
    ) -> ModelDetail:
        """Point an alias to a version. If an operator had unloaded it here, that is undone."""
        store = self._registry.store
        with suppress(ModelStoreError):  # `_change` reports it
            store.check_movable(model, alias)
            self._try(model, version)
        with self._change(model, version) as change:
            store.check_movable(model, alias)
            prove_version(change, model, version)
            store.promote(model, version, alias, reason, by)
            self._undo_unload(change, model, version)
        return self._describe(model)

    def roll_back(self, model: str, reason: str, by: str, alias: str = PRODUCTION) -> ModelDetail:
        """Point an alias to the version before its newest promotion."""
        store = self._registry.store
        with suppress(ModelStoreError):  # `_change` reports it
            store.check_movable(model, alias)
            self._try(model, store.aliases(model).previous(alias, store.versions(model)))
        with self._change(model) as change:
            store.check_movable(model, alias)
            version = store.aliases(model).previous(alias, among=store.versions(model))
            prove_version(change, model, version)
            store.rollback(model, alias, reason, by, to=version)
            self._undo_unload(change, model, version)
        return self._describe(model)

    def _undo_unload(self, change: RegistryChange, model: str, version: int) -> None:
        if self._registry.overrides(model).get(version) == "unload":
            change.override(model, version, None)

    def _try(self, model: str, version: int) -> None:
        """Try a version while the registry is not locked, because that may take long."""
        with suppress(ModelStoreError, OSError):  # `_change` reports it
            try_version(self._registry, model, version)

    def _candidates(self, model: str) -> Sequence[int]:
        """The versions that the policy selects, best first, whatever an operator decided."""
        served = self._registry.models.get(model)
        if served and served.desired:
            return served.desired.selection.candidates
        with suppress(ModelStoreError):  # `_change` reports it
            return self._registry.store.versions(model)[::-1]
        return ()

    def _successors(self, model: str, version: int) -> list[int]:
        """The candidates to serve in place of a version, if it is the last one that serves."""
        served = self._registry.models.get(model)
        if served is None or served.desired is None or list(served.serving) != [version]:
            return []
        return [number for number in served.desired.candidates if number != version]

    def _prove_successor(self, change: RegistryChange, model: str, version: int) -> None:
        for number in self._successors(model, version):
            with suppress(ConflictError, NotReadyError):  # the model keeps the reason
                prove_version(change, model, number)
                return

    @contextmanager
    def _change(self, model: str, version: int | None = None) -> Iterator[RegistryChange]:
        """Change the registry, then reconcile. Raises NotFoundError if `version` does not exist."""
        with _translated_errors(), self._registry.exclusive() as change:
            try:
                if version is not None:
                    self._check_exists(model, version)
                yield change
            finally:
                apply_store(change)

    def _check_exists(self, model: str, version: int) -> None:
        versions = self._registry.store.versions(model)
        if version not in versions:
            existing = ", ".join(map(str, versions))
            raise VersionNotFoundError(
                f"model {model} has no version {version}; existing versions: {existing}"
            )

    def _describe(self, model: str) -> ModelDetail:
        served = self._registry.models.get(model)
        if served is None:
            raise NotFoundError(f"model {model} was deleted from the store in the meantime")
        return describe_model(self._registry, served)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except ModelNotFoundError as error:
        raise NotFoundError(str(error)) from None
    except VersionNotFoundError as error:
        raise NotFoundError(str(error), code="version_not_found") from None
    except InvalidNameError as error:
        raise BadRequestError(str(error), code="invalid_parameter") from None
    except StoreReadOnlyError as error:
        raise ConflictError(
            f"{error}; this replica cannot write to its store: move the alias on a machine that "
            "can (python -m model_store promote)",
            code="store_read_only",
        ) from None
    except AliasError as error:
        raise ConflictError(str(error), code="alias_not_moved") from None
    except StoreUnreadableError:
        raise NotReadyError("the model store cannot be read; see the server's log") from None
