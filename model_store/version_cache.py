"""The versions of an object store that this host has downloaded."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from model_store.errors import (
    FileMissingError,
    ManifestError,
    StoreUnreadableError,
    VersionCorruptError,
    VersionNotFoundError,
)
from model_store.files import write_durably
from model_store.host_cache import (
    build_entry,
    mark_used,
    open_host_cache,
    prune_entries,
    remove_entry,
)
from model_store.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from model_store.object_storage import ObjectTooLargeError
from model_store.remote_objects import RemoteObjects
from model_store.version import MAX_MANIFEST_BYTES, SIGNATURE_BYTES, Version

if TYPE_CHECKING:  # imported only where it is used: that takes 30 ms
    from model_store.signature import TrustedKeys

FOLDER: Final = "versions"
"""Folder in the cache directory."""
DEFAULT_CACHE_BYTES: Final = 16 * 1024**3
OPEN_ATTEMPTS: Final = 3


class VersionCache:
    """Downloads versions, and opens the copies.

    Args:
        objects: Where the versions are.
        root: Cache directory of this host.
        max_bytes: Limit for all versions in bytes. The least recently used are deleted first, open
            ones never.
        trusted_keys: Only versions that one of them signed are opened.
    """

    def __init__(
        self,
        objects: RemoteObjects,
        root: Path,
        max_bytes: int,
        trusted_keys: "TrustedKeys | None",
    ) -> None:
        self._objects = objects
        self._root = root
        self._max_bytes = max_bytes
        self._trusted_keys = trusted_keys

    def open(self, model: str, number: int, *, verify: bool) -> Version:
        """Open a version, which is downloaded unless this host has it. Raises as `ModelStore.open`.

        A damaged copy is replaced if `verify` finds it.
        """
        for attempt in range(1, OPEN_ATTEMPTS + 1):
            with suppress(VersionNotFoundError):  # another process has just pruned the cache
                entry, is_new = self._fetch(model, number, files=True)
                version = self._open(model, number, entry)
                mark_used(entry / MANIFEST_NAME)
                if is_new or not verify:
                    return version
                try:
                    version.verify()
                except BaseException as error:
                    version.close()
                    if not isinstance(error, VersionCorruptError) or attempt == OPEN_ATTEMPTS:
                        raise
                    remove_entry(entry)
                else:
                    return version
        raise VersionNotFoundError(f"{model}/{number} was deleted while it was opened")

    def open_manifest(self, model: str, number: int) -> Version:
        """Open a version without its files."""
        return self._open(model, number, self._fetch(model, number, files=False)[0])

    def _open(self, model: str, number: int, directory: Path) -> Version:
        return Version(model, number, directory, "published", self._trusted_keys)

    def _fetch(self, model: str, number: int, *, files: bool) -> tuple[Path, bool]:
        """The directory of a version, and whether it was downloaded and verified just now.

        Without `files`, the directory has only the manifest.
        """
        folder = f"{model}/{number}"
        storage = self._objects.storage
        try:
            manifest = storage.read(f"{folder}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
            signature = None
            if f"{folder}/{SIGNATURE_NAME}" in self._objects.names():
                signature = storage.read(f"{folder}/{SIGNATURE_NAME}", SIGNATURE_BYTES)
            key = hashlib.sha256(manifest + (signature or b"")).hexdigest()
            entry = open_host_cache(self._root, FOLDER) / (key if files else f"{key}-manifest")
            if entry.is_dir():
                return entry, False
            with build_entry(entry) as building:
                write_durably(building / MANIFEST_NAME, manifest)
                if signature is not None:
                    write_durably(building / SIGNATURE_NAME, signature)
                if files:
                    with self._open(model, number, building) as version:
                        # Refused versions raise before their files are downloaded.
                        self._download(folder, version.manifest, building)
                        version.verify()
        except ObjectTooLargeError as error:  # as for a version on disk: no later read succeeds
            raise ManifestError(str(error)) from error
        except FileNotFoundError as error:
            self._objects.forget_listing()
            if f"{folder}/{MANIFEST_NAME}" in self._objects.names():
                raise FileMissingError(f"{folder}: a file of its manifest is missing") from error
            raise VersionNotFoundError(f"{folder} was deleted while it was fetched") from error
        except OSError as error:
            raise StoreUnreadableError(f"{folder} cannot be cached: {error.strerror}") from error
        if files:
            prune_entries(entry.parent, self._max_bytes, keep=entry)
        return entry, True

    def _download(self, folder: str, manifest: Manifest, directory: Path) -> None:
        """Download the files, and sync them: after a power failure, no copy is incomplete."""
        for entry in manifest.files:  # the schema allows no path that leaves the directory
            path = directory / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self._objects.storage.download(f"{folder}/{entry.path}", path, entry.size)
            with path.open("rb") as file:
                os.fsync(file.fileno())
