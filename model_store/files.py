"""File operations that survive a crash: fsync, rename, locks on directories.

They need a local POSIX file system: on NFS, a retried rename or link is ambiguous.
"""

import errno
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import FileIO
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1024 * 1024
DELETION_PREFIX = ".doomed-"
MAX_LINKS = 40  # the limit of Linux
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EROFS}
"""Errors of `flock` on file systems without locks. NFS locks only what is open for writing."""
logger = logging.getLogger(__name__)


class UnexpectedFileError(OSError):
    """The path names a link, a FIFO, a device or a directory, or the file is larger than allowed.

    A retry does not help, unlike after other `OSError`s.
    """

    def __init__(self, path: Path, reason: str, code: int = errno.EINVAL) -> None:
        super().__init__(code, reason, str(path))


def open_regular(path: Path, *, follow_links: bool = False, directory: int | None = None) -> FileIO:
    """Open a regular file for reading; never blocks, whatever `path` names.

    Args:
        path: The file.
        follow_links: Whether the last component may be a symbolic link.
        directory: Descriptor of the directory that a relative `path` begins at.

    Raises:
        UnexpectedFileError: It is not a regular file.
        OSError: It cannot be opened.
    """
    # O_NONBLOCK: opening a FIFO would wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnexpectedFileError(path, "it is a symbolic link", errno.ELOOP) from None
        if error.errno == errno.ENXIO:
            raise UnexpectedFileError(path, "it is not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnexpectedFileError(path, "it is not a regular file")
    return FileIO(descriptor)


def open_regular_below(directory: Path, relative: str) -> FileIO:
    """Open a regular file below a directory without following a link in any component.

    Args:
        directory: Where to begin; it must not be a symbolic link.
        relative: POSIX path of the file, without `..`.

    Raises:
        UnexpectedFileError: A component is a link, or the file is not a regular one.
        OSError: It cannot be opened.
    """
    folder, _, name = relative.rpartition("/")
    with opened_directory(directory, folder) as descriptor:
        return open_regular(Path(name), directory=descriptor)


def follow_link(path: Path) -> Path:
    """Return the target of `path` if it is a symbolic link. Links in its parents are kept.

    `Path.resolve` would also resolve links like `/proc/7/root`, which lead to the files of another
    container.
    """
    for _ in range(MAX_LINKS):
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return path


@contextmanager
def opened_directory(directory: Path, relative: str = "") -> Iterator[int]:
    """The descriptor of a directory that is reached without following a link.

    Args:
        directory: Where to begin; it must not be a symbolic link.
        relative: POSIX path below it, without `..`.

    Raises:
        UnexpectedFileError: A component is a symbolic link.
        OSError: A component cannot be opened, or it is not a directory.
    """
    descriptor = _open_directory(directory)
    try:
        for name in relative.split("/") if relative else ():
            below = _open_directory(Path(name), descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _open_directory(path: Path, parent: int | None = None) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        # With O_DIRECTORY, Linux reports a link as ENOTDIR.
        if error.errno in {errno.ELOOP, errno.ENOTDIR} and _is_link(path, parent):
            raise UnexpectedFileError(path, "it is a symbolic link", errno.ELOOP) from None
        raise


def _is_link(path: Path, directory: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path, dir_fd=directory).st_mode)
    except OSError:
        return False


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file.

    Args:
        path: The file. Its last component must not be a symbolic link.
        max_bytes: A larger file is an error; at most one byte more than this is read.

    Raises:
        UnexpectedFileError: It is not a regular file, or it is larger than `max_bytes`.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        return read_open_file(file, path, max_bytes)


def read_open_file(file: FileIO, path: Path, max_bytes: int) -> bytes:
    """Read the rest of an open file; `path` is for messages. Raises as `read_bounded` does."""
    parts, missing = [], max_bytes + 1
    while missing and (part := file.read(missing)):
        parts.append(part)
        missing -= len(part)
    if not missing:
        raise UnexpectedFileError(path, f"it is larger than {max_bytes} bytes", errno.EFBIG)
    return b"".join(parts)


def sha256_of(path: Path) -> str:
    """sha256 of a regular file's bytes, in hex. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return hash_open_file(file)


def hash_open_file(file: FileIO) -> str:
    """sha256 of the rest of an open file, in hex. Raises OSError."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def write_durably(path: Path, data: bytes) -> None:
    """Create `path` with `data` and sync it. Raises FileExistsError if it exists."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def open_atomically(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends without an exception.

    File and directory are synced, so a crash leaves either the old content or the new one. An
    exception leaves the old content. The temporary file has a hidden name beside `path`.

    Args:
        path: The file to create or replace.
        mode: Permissions of the new file, before the umask.

    Raises:
        OSError: The file cannot be written; a full disk leaves the old content.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` with `data` as `open_atomically` does. Raises OSError."""
    with open_atomically(path) as file:
        file.write(data)


def sync_directory(path: Path) -> None:
    """Sync the entries of a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory_durably(path: Path) -> None:
    """Create a directory and its parents, and sync each new entry."""
    if path.is_dir():
        return
    make_directory_durably(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
    sync_directory(path.parent)


class DirectoryLock:
    """An advisory lock on a directory, held until `release` or until the process ends.

    Readers and publishers share it. A process that deletes the directory holds it exclusively.
    Some network file systems have no locks: then a shared lock is not taken, which is logged once.
    """

    def __init__(self, path: Path, *, exclusive: bool = False) -> None:
        """Take the lock. Raises BlockingIOError if another process holds a conflicting one."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(
                self._descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
            )
        except OSError as error:
            if not exclusive and error.errno in _NO_LOCKS:
                _log_missing_locks(str(error.strerror))
                return
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@cache
def _log_missing_locks(reason: str) -> None:
    """Warn once per reason: without locks, `prune` can delete a version that is in use."""
    logger.warning(
        "file system without locks reason=%r: do not prune the store while it is in use", reason
    )


def remove_tree_if_unused(path: Path) -> bool:
    """Delete a directory unless a process has it locked; return whether it was deleted.

    It is renamed first, so no process sees a half-deleted directory.
    """
    try:
        lock = DirectoryLock(path, exclusive=True)
    except (BlockingIOError, FileNotFoundError):
        return False
    try:
        doomed = path.with_name(f"{DELETION_PREFIX}{path.name.lstrip('.')}-{os.getpid()}")
        path.rename(doomed)
        shutil.rmtree(doomed)
    finally:
        lock.release()
    return True
