"""An opened version: its manifest, its verified files, and a lock that `prune` respects."""

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from model_store.errors import (
    FileAlteredError,
    FileMissingError,
    FileUnlistedError,
    ManifestError,
    PathEscapesError,
    StoreUnreadableError,
    VersionNotFoundError,
)
from model_store.files import DirectoryLock, sha256_of
from model_store.manifest import MANIFEST_NAME, Manifest, Variant, manifest_digest

MAX_MANIFEST_BYTES = 16 * 1024 * 1024
StoreLayer = Literal["published", "built-in"]


class Version:
    """One sealed version on disk, as `ModelStore.open` returns it.

    While it is open, `prune` does not delete it. Close it, or use it as a context manager.

    Attributes:
        model: Name of the model.
        number: Version number, from 1.
        directory: Where its files are.
        layer: Whether it was published in the store or is built in.
        manifest: Its validated manifest.
        digest: sha256 of `manifest.json`, in hex: its identity.
    """

    def __init__(self, model: str, number: int, directory: Path, layer: StoreLayer) -> None:
        """Lock the directory and read the manifest. Files are checked by `verify`, not here.

        Raises:
            VersionNotFoundError: The directory is missing or is being deleted.
            ManifestError: The manifest is not valid or belongs to another model.
            PathEscapesError: The directory or the manifest is a symbolic link.
            StoreUnreadableError: The directory or the manifest cannot be read.
        """
        self.model = model
        self.number = number
        self.directory = directory
        self.layer = layer
        if directory.is_symlink():
            raise PathEscapesError(f"{self} is a symbolic link, which is not allowed")
        try:
            self._lock = DirectoryLock(directory)  # first, so that `prune` cannot interfere
        except (BlockingIOError, FileNotFoundError):
            raise VersionNotFoundError(f"{self} is being deleted") from None
        except OSError as error:
            raise StoreUnreadableError(f"{self} cannot be read: {error.strerror}") from error
        try:
            data = self._read_manifest()
            try:
                self.manifest = Manifest.from_bytes(data)
            except ManifestError as error:
                raise ManifestError(f"{self}: {error}") from None
            if self.manifest.model != model:
                raise ManifestError(
                    f"{self}: the manifest belongs to model {self.manifest.model!r}"
                )
        except BaseException:
            self.close()
            raise
        self.digest = manifest_digest(data)

    def path(self, relative: str) -> Path:
        """The path of a file of the manifest."""
        return self.directory / relative

    def variant(self, precision: str = "fp32") -> Variant:
        """The variant of this precision. Raises ManifestError if there is none."""
        for variant in self.manifest.variants:
            if variant.precision == precision:
                return variant
        offered = ", ".join(variant.precision for variant in self.manifest.variants)
        raise ManifestError(f"{self} has no {precision} variant; it has {offered}")

    def verify(self) -> None:
        """Compare every file with its sealed size and sha256.

        Raises:
            VersionCorruptError: A file is missing, altered, not listed, or behind a link.
            StoreUnreadableError: A file cannot be read.
        """
        for entry in self.manifest.files:
            path = self._checked_path(entry.path)
            size = path.stat().st_size
            if size != entry.size:
                raise FileAlteredError(
                    f"{self}: {entry.path} has {size} bytes, expected {entry.size}"
                )
            try:
                digest = sha256_of(path)
            except OSError as error:
                raise StoreUnreadableError(
                    f"{self}: {entry.path} cannot be read: {error.strerror}"
                ) from error
            if digest != entry.sha256:
                raise FileAlteredError(
                    f"{self}: the sha256 of {entry.path} is {digest}, expected {entry.sha256}"
                )
        listed = {entry.path for entry in self.manifest.files} | {MANIFEST_NAME}
        for path_on_disk in self._files_on_disk():
            if path_on_disk not in listed:
                raise FileUnlistedError(
                    f"{self}: {path_on_disk} is not listed in the manifest; a sealed version must "
                    "not change"
                )

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return f"{self.model}/{self.number}"

    def _checked_path(self, relative: str) -> Path:
        """Reject links in every component; the schema already rejects `..` and absolute paths."""
        path = self.directory
        for part in relative.split("/"):
            path = path / part
            try:
                mode = path.lstat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                raise FileMissingError(f"{self}: {relative} is missing") from None
            if stat.S_ISLNK(mode):
                raise PathEscapesError(
                    f"{self}: {relative} is behind a symbolic link, which is not allowed"
                )
        if not stat.S_ISREG(mode):
            raise PathEscapesError(f"{self}: {relative} is not a regular file")
        return path

    def _files_on_disk(self) -> list[str]:
        paths = []
        for folder, folders, files in os.walk(self.directory):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            paths += [
                (Path(folder) / name).relative_to(self.directory).as_posix()
                for name in [*files, *links]
            ]
        return sorted(paths)

    def _read_manifest(self) -> bytes:
        path = self.directory / MANIFEST_NAME
        if path.is_symlink():
            raise PathEscapesError(
                f"{self}: {MANIFEST_NAME} is a symbolic link, which is not allowed"
            )
        if path.exists() and not path.is_file():
            raise ManifestError(f"{self}: the manifest is not a regular file")
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_MANIFEST_BYTES + 1)
        except FileNotFoundError:
            raise VersionNotFoundError(
                f"{self} has no {MANIFEST_NAME}, so it is not a version"
            ) from None
        except OSError as error:
            raise StoreUnreadableError(
                f"{self}: the manifest cannot be read: {error.strerror}"
            ) from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{self}: the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
        return data
