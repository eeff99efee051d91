"""The objects of a model store, listed at most once a second."""

import time
from datetime import datetime
from typing import Final

from model_store.errors import StoreUnreadableError
from model_store.manifest import MANIFEST_NAME
from model_store.names import is_name, is_version_name
from model_store.object_storage import ObjectStorage

LISTING_SECONDS: Final = 1.0
"""How long a listing is reused. One check of the store needs it several times."""


class RemoteObjects:
    """The objects below a URL.

    Attributes:
        storage: Reads and writes single objects.
    """

    def __init__(self, url: str) -> None:
        """Raises ValueError if the URL is not valid."""
        self.storage = ObjectStorage(url)
        self._listing: tuple[float, dict[str, datetime]] | None = None

    def names(self) -> dict[str, datetime]:
        """All names, and when each was last written. Raises StoreUnreadableError."""
        now = time.monotonic()
        listing = self._listing
        if listing is None or now - listing[0] > LISTING_SECONDS:
            try:
                listing = now, self.storage.names()
            except FileNotFoundError as error:
                raise StoreUnreadableError(f"{self.storage.url} does not exist") from error
            self._listing = listing
        return listing[1]

    def names_below(self, folder: str) -> list[str]:
        """Names of the objects below a folder, relative to it. Raises StoreUnreadableError."""
        start = f"{folder}/"
        return [name[len(start) :] for name in self.names() if name.startswith(start)]

    def versions(self) -> dict[str, set[int]]:
        """Numbers of the complete versions of each model. Raises StoreUnreadableError."""
        found: dict[str, set[int]] = {}
        for name in self.names():
            match name.split("/"):
                case [model, number, last] if last == MANIFEST_NAME:
                    if is_name(model) and is_version_name(number):
                        found.setdefault(model, set()).add(int(number))
        return found

    def forget_listing(self) -> None:
        """Discard the listing, so that the next call lists the objects again."""
        self._listing = None

    def create(self, name: str, data: bytes) -> None:
        """Write an object. Raises FileExistsError if it exists, or StoreUnreadableError."""
        self.forget_listing()
        try:
            self.storage.create(name, data)
        except FileExistsError:
            # If a retry follows a lost response, the object is the one that this call wrote.
            if self.storage.read(name, len(data)) != data:
                raise
