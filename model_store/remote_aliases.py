"""The aliases of a model in an object store: each event is one object."""

from pathlib import Path

from model_store.aliases import DIRECTORY_NAME, MAX_EVENT_BYTES, Aliases
from model_store.errors import AliasError, StoreUnreadableError
from model_store.names import check_name
from model_store.remote_objects import RemoteObjects


class RemoteAliases(Aliases):
    """Like `Aliases`. An event is one conditional write, so it leaves no draft behind."""

    def __init__(self, model: str, objects: RemoteObjects) -> None:
        super().__init__(check_name(model), Path(model))
        self._objects = objects

    def change_token(self, alias: str) -> object:
        """As `Aliases.change_token`."""
        return tuple(self._numbers(alias))

    def abandoned_drafts(self) -> list[Path]:
        """None."""
        return []

    def _list(self, alias: str = "") -> list[str]:
        folder = f"{self._model}/{DIRECTORY_NAME}" + (f"/{alias}" if alias else "")
        try:
            names = self._objects.names_below(folder)
        except StoreUnreadableError as error:
            raise AliasError(f"{self._model}: its aliases cannot be read: {error}") from error
        return sorted({name.split("/")[0] for name in names})

    def _read_event(self, alias: str, name: str) -> bytes:
        path = f"{self._model}/{DIRECTORY_NAME}/{alias}/{name}"
        try:
            return self._objects.storage.read(path, MAX_EVENT_BYTES)
        except StoreUnreadableError as error:
            raise AliasError(f"{self._model}: its aliases cannot be read: {error}") from error

    def _create_event(self, alias: str, name: str, data: bytes) -> None:
        try:
            self._objects.create(f"{self._model}/{DIRECTORY_NAME}/{alias}/{name}", data)
        except StoreUnreadableError as error:
            raise AliasError(f"{self._model}: {alias} cannot be moved: {error}") from error
