"""What an operator may do to versions on a running replica: load, unload, and move aliases in the store."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from model_store.aliases import PRODUCTION
from model_store.errors import (
    AliasError,
    InvalidNameError,
    ModelNotFoundError,
    StoreReadOnlyError,
    StoreUnreadableError,
    VersionNotFoundError,
)
from service.errors import BadRequestError, ConflictError, NotFoundError, NotReadyError
from service.http.schemas import ModelDetail
from service.versions.registry import Registry
from service.versions.views import describe_model


class Operations:
    """Each call waits for its turn, blocks until what was asked is done, and returns the model as it is then.

    `load` and `unload` say of one version what this replica alone does, until `release` or a restart. Moving an alias is an event
    in the store, which every replica follows; it is written only once the version has been proven here.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def load(self, model: str, version: int) -> ModelDetail:
        """Serve this version too, whatever the policy says; one that failed is tried again. Raises ServiceError."""
        with self._changing(model, version):
            self._registry.prove(model, version)
            self._registry.hold(model, version, "load")
        return self._describe(model)

    def unload(self, model: str, version: int) -> ModelDetail:
        """Do not serve this version, whatever the policy says; its open requests end on it. Raises ServiceError.

        Where it is the last that serves the policy's next one takes its place first.
        """
        with self._changing(model, version):
            self._prove_successor(model, version)
            before = self._registry.held(model).get(version)
            self._registry.hold(model, version, "unload")
            self._registry.load()
            found = self._registry.models.get(model)
            if found and version in found.serving:
                self._registry.hold(model, version, before)
                reason = found.error or "the model store can not be read"
                raise ConflictError(
                    f"version {version} of {model} serves on, for {reason}", code="not_unloaded"
                )
        return self._describe(model)

    def release(self, model: str, version: int) -> ModelDetail:
        """Leave this version to the policy again, also where it is gone. Raises ServiceError."""
        with self._changing(model, None if version in self._registry.held(model) else version):
            self._registry.hold(model, version, None)
        return self._describe(model)

    def promote(
        self, model: str, version: int, why: str, by: str, alias: str = PRODUCTION
    ) -> ModelDetail:
        """Point the alias to this version; that it was held unloaded here is forgotten. Raises ServiceError."""
        with self._changing(model, version):
            self._registry.store.check_movable(model, alias)
            self._registry.prove(model, version)
            self._registry.store.promote(model, version, alias, why, by)
            if self._registry.held(model).get(version) == "unload":
                self._registry.hold(model, version, None)
        return self._describe(model)

    def roll_back(self, model: str, why: str, by: str, alias: str = PRODUCTION) -> ModelDetail:
        """Point the alias to what it named before its newest promotion. Raises ServiceError."""
        store = self._registry.store
        with self._changing(model):
            store.check_movable(model, alias)
            version = store.aliases(model).previous(alias, among=store.versions(model))
            self._registry.prove(model, version)
            store.rollback(model, alias, why, by, to=version)
            if self._registry.held(model).get(version) == "unload":
                self._registry.hold(model, version, None)
        return self._describe(model)

    def _prove_successor(self, model: str, version: int) -> None:
        found = self._registry.models.get(model)
        if found is None or found.wish is None or list(found.serving) != [version]:
            return
        for number in found.wish.candidates:
            if number != version:
                with suppress(ConflictError, NotReadyError):  # the reason is kept with the version
                    self._registry.prove(model, number)
                    return

    @contextmanager
    def _changing(self, model: str, version: int | None = None) -> Iterator[None]:
        """Have the turn, and look at the store once more at the end; the store's errors become the service's."""
        try:
            with self._registry.turn():
                try:
                    if version is not None and version not in (
                        versions := self._registry.store.versions(model)
                    ):
                        there_are = ", ".join(map(str, versions))
                        raise VersionNotFoundError(
                            f"{model} has no version {version}; it has {there_are}"
                        )
                    yield
                finally:
                    self._registry.load()
        except ModelNotFoundError as error:
            raise NotFoundError(str(error)) from None
        except VersionNotFoundError as error:
            raise NotFoundError(str(error), code="version_not_found") from None
        except InvalidNameError as error:
            raise BadRequestError(str(error), code="invalid_parameter") from None
        except StoreReadOnlyError as error:
            hint = "this replica can not write to its store: move the alias where it can be written (python -m model_store promote)"
            raise ConflictError(f"{error}; {hint}", code="store_read_only") from None
        except AliasError as error:
            raise ConflictError(str(error), code="alias_not_moved") from None
        except StoreUnreadableError:
            raise NotReadyError(
                "the model store can not be read; the server's log says why"
            ) from None

    def _describe(self, model: str) -> ModelDetail:
        found = self._registry.models.get(model)
        if found is None:
            raise NotFoundError(f"{model} has gone from the store meanwhile")
        return describe_model(self._registry, found)
