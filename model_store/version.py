"""A version that was opened: its manifest, its verified files, and the lease that keeps `prune` away from it."""

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
Layer = Literal["published", "built-in"]


class Version:
    """One sealed version on disk. While it is open no `prune` deletes it; close it, or use it in a `with`."""

    def __init__(self, model: str, number: int, directory: Path, layer: Layer) -> None:
        """Read and validate the manifest; the files are not looked at before `verify`."""
        self.model = model
        self.number = number
        self.directory = directory
        self.layer = layer
        if directory.is_symlink():
            raise PathEscapesError(f"{self} is a symbolic link; links are refused")
        try:
            self._lock = DirectoryLock(
                directory
            )  # before the manifest, so that what was read can not be pruned
        except (BlockingIOError, FileNotFoundError):
            raise VersionNotFoundError(f"{self} is being deleted") from None
        except OSError as error:
            raise StoreUnreadableError(f"{self} can not be read: {error.strerror}") from error
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
        """Where a file of the manifest lies."""
        return self.directory / relative

    def variant(self, precision: str = "fp32") -> Variant:
        """The variant of this precision; raises ManifestError where the version has none."""
        for variant in self.manifest.variants:
            if variant.precision == precision:
                return variant
        offered = ", ".join(variant.precision for variant in self.manifest.variants)
        raise ManifestError(f"{self} has no {precision} variant; it has {offered}")

    def verify(self) -> None:
        """Hold every file against its sealed size and sha256. Raises a VersionCorruptError that names the first that differs."""
        for entry in self.manifest.files:
            path = self._checked_path(entry.path)
            size = path.stat().st_size
            if size != entry.size:
                raise FileAlteredError(
                    f"{self}: {entry.path} has {size} bytes, {entry.size} were sealed"
                )
            try:
                digest = sha256_of(path)
            except OSError as error:
                raise StoreUnreadableError(
                    f"{self}: {entry.path} can not be read: {error.strerror}"
                ) from error
            if digest != entry.sha256:
                raise FileAlteredError(
                    f"{self}: the sha256 of {entry.path} is {digest}, {entry.sha256} was sealed"
                )
        listed = {entry.path for entry in self.manifest.files} | {MANIFEST_NAME}
        for found in self._files_on_disk():
            if found not in listed:
                raise FileUnlistedError(
                    f"{self}: {found} is not in the manifest; nothing is added to a sealed version"
                )

    def close(self) -> None:
        """Give the lease back."""
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
        """The manifest's schema keeps `..` and absolute paths out; links are found here, in every component."""
        path = self.directory
        for part in relative.split("/"):
            path = path / part
            try:
                mode = path.lstat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                raise FileMissingError(f"{self}: {relative} is missing") from None
            if stat.S_ISLNK(mode):
                raise PathEscapesError(
                    f"{self}: {relative} is or lies behind a symbolic link; links are refused"
                )
        if not stat.S_ISREG(mode):
            raise PathEscapesError(f"{self}: {relative} is not a regular file")
        return path

    def _files_on_disk(self) -> list[str]:
        found = []
        for folder, folders, files in os.walk(self.directory):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            found += [
                (Path(folder) / name).relative_to(self.directory).as_posix()
                for name in [*files, *links]
            ]
        return sorted(found)

    def _read_manifest(self) -> bytes:
        path = self.directory / MANIFEST_NAME
        if path.is_symlink():
            raise PathEscapesError(f"{self}: {MANIFEST_NAME} is a symbolic link; links are refused")
        if path.exists() and not path.is_file():
            raise ManifestError(f"{self}: the manifest can not be read: it is no regular file")
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_MANIFEST_BYTES + 1)
        except FileNotFoundError:
            raise VersionNotFoundError(
                f"{self} has no {MANIFEST_NAME}, so it is no version"
            ) from None
        except OSError as error:
            raise StoreUnreadableError(
                f"{self}: the manifest can not be read: {error.strerror}"
            ) from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{self}: the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
        return data
