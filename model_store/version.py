"""An opened version: its manifest, its verified files, and a lock that `prune` respects."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from model_store.errors import (
    FileAlteredError,
    FileMissingError,
    FileUnlistedError,
    ManifestError,
    PathEscapesError,
    SignatureError,
    StoreUnreadableError,
    VersionNotFoundError,
)
from model_store.files import (
    DirectoryLock,
    UnexpectedFileError,
    hash_open_file,
    open_regular_below,
    read_bounded,
    read_open_file,
)
from model_store.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    Variant,
    manifest_digest,
)
from model_store.names import printable

if TYPE_CHECKING:  # imported only where it is used: it takes 30 ms
    from model_store.signature import TrustedKeys

SIGNATURE_BYTES = 64
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_GOLDEN_IMAGE_BYTES = 64 * 1024 * 1024
MAX_REPORT_BYTES = 4 * 1024 * 1024
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

    def __init__(
        self,
        model: str,
        number: int,
        directory: Path,
        layer: StoreLayer,
        trusted_keys: "TrustedKeys | None" = None,
        *,
        renamed: bool = False,
    ) -> None:
        """Lock the directory and read the manifest. Files are checked by `verify`, not here.

        `renamed`: `model` is not the name in the manifest.

        Raises:
            VersionNotFoundError: The directory is missing or is being deleted.
            ManifestError: The manifest is not valid or belongs to another model.
            SignatureError: There are trusted keys, and none of them signed the manifest.
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
            if trusted_keys:
                trusted_keys.check(str(self), data, self._read_signature())
            try:
                self.manifest = Manifest.from_bytes(data)
            except ManifestError as error:
                raise ManifestError(f"{self}: {error}") from None
            if self.manifest.model != model and not renamed:
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
            with self.open_file(entry.path):
                pass
        listed = {entry.path for entry in self.manifest.files} | {MANIFEST_NAME, SIGNATURE_NAME}
        for path_on_disk in self._files_on_disk():
            if path_on_disk not in listed:
                raise FileUnlistedError(
                    f"{self}: {printable(path_on_disk)} is not listed in the manifest; a sealed "
                    "version must not change"
                )

    @contextmanager
    def open_file(self, relative: str) -> Iterator[FileIO]:
        """Open a file of the manifest and compare the opened file with its size and sha256.

        The opened file stays the one that was compared, even if its path is replaced. A write into
        the file itself is noticed if it happened before the block ends.

        Raises:
            VersionCorruptError: The file is missing, altered, or behind a link.
            StoreUnreadableError: It cannot be read, or was changed before the block ended.
        """
        entry = self._entry(relative)
        with self._open(entry) as file:
            before = _change_marks(file)  # before hashing, so that no later write is missed
            try:
                self._compare(entry, file)
                yield file
            except Exception as error:  # the failed read may have mixed old and new content
                if _change_marks(file) != before:
                    raise self._changed(relative) from error
                raise
            if _change_marks(file) != before:
                raise self._changed(relative)

    def read_file(self, relative: str, max_bytes: int | None = None) -> bytes:
        """The bytes of a file of the manifest, compared with its sha256.

        Args:
            relative: Path as in the manifest.
            max_bytes: A larger file is rejected; by default, one that is larger than sealed.

        Raises:
            VersionCorruptError: The file is missing, altered, too large, or behind a link.
            StoreUnreadableError: It cannot be read.
        """
        entry = self._entry(relative)
        with self._open(entry) as file:
            try:
                limit = entry.size if max_bytes is None else max_bytes
                data = read_open_file(file, Path(relative), limit)
            except UnexpectedFileError as error:
                raise FileAlteredError(f"{self}: {relative}: {error.strerror}") from None
            except OSError as error:
                raise self._unreadable(relative, error) from error
        self._check_digest(entry, hashlib.sha256(data).hexdigest())
        return data

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

    def _entry(self, relative: str) -> FileEntry:
        for entry in self.manifest.files:
            if entry.path == relative:
                return entry
        raise FileMissingError(f"{self}: {relative} is not listed in the manifest")

    def _open(self, entry: FileEntry) -> FileIO:
        """Open without following links; the schema already rejects `..` and absolute paths."""
        try:
            return open_regular_below(self.directory, entry.path)
        except UnexpectedFileError as error:
            raise PathEscapesError(f"{self}: {entry.path}: {error.strerror}") from None
        except (FileNotFoundError, NotADirectoryError):
            raise FileMissingError(f"{self}: {entry.path} is missing") from None
        except OSError as error:
            raise self._unreadable(entry.path, error) from error

    def _compare(self, entry: FileEntry, file: FileIO) -> None:
        size = os.fstat(file.fileno()).st_size
        if size != entry.size:
            raise FileAlteredError(f"{self}: {entry.path} has {size} bytes, expected {entry.size}")
        try:
            digest = hash_open_file(file)
        except OSError as error:
            raise self._unreadable(entry.path, error) from error
        self._check_digest(entry, digest)
        file.seek(0)

    def _check_digest(self, entry: FileEntry, digest: str) -> None:
        if digest != entry.sha256:
            raise FileAlteredError(
                f"{self}: the sha256 of {entry.path} is {digest}, expected {entry.sha256}"
            )

    def _unreadable(self, relative: str, error: OSError) -> StoreUnreadableError:
        return StoreUnreadableError(f"{self}: {relative} cannot be read: {error.strerror}")

    def _changed(self, relative: str) -> StoreUnreadableError:
        return StoreUnreadableError(f"{self}: {relative} was changed while it was read")

    def _files_on_disk(self) -> list[str]:
        paths = []
        for folder, folders, files in os.walk(self.directory):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            paths += [
                (Path(folder) / name).relative_to(self.directory).as_posix()
                for name in [*files, *links]
            ]
        return sorted(paths)

    def _read_signature(self) -> bytes | None:
        try:
            return read_bounded(self.directory / SIGNATURE_NAME, SIGNATURE_BYTES)
        except FileNotFoundError:
            return None
        except UnexpectedFileError as error:
            raise SignatureError(f"{self}: {SIGNATURE_NAME}: {error.strerror}") from None
        except OSError as error:
            raise self._unreadable(SIGNATURE_NAME, error) from error

    def _read_manifest(self) -> bytes:
        try:
            return read_bounded(self.directory / MANIFEST_NAME, MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            raise VersionNotFoundError(
                f"{self} has no {MANIFEST_NAME}, so it is not a version"
            ) from None
        except UnexpectedFileError as error:
            kind = PathEscapesError if error.errno == errno.ELOOP else ManifestError
            raise kind(f"{self}: {MANIFEST_NAME} cannot be used: {error.strerror}") from None
        except OSError as error:
            raise StoreUnreadableError(
                f"{self}: the manifest cannot be read: {error.strerror}"
            ) from error


def _change_marks(file: FileIO) -> tuple[int, int, int]:
    """Values that differ after any change of the file. No program can set the ctime."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
