"""Temporary directories. If a process is killed, a later one removes its directories."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from model_store.files import DirectoryLock, remove_tree_if_unused

PREFIX: Final = "resident-temporary-"
_ATTEMPTS: Final = 5


@contextmanager
def temporary_directory(purpose: str) -> Iterator[Path]:
    """Yield a new directory, which is locked until the block ends.

    Directories that no process has locked were left by killed processes, and are removed.

    Args:
        purpose: Part of its name, after `PREFIX`.

    Raises:
        OSError: No directory for temporary files is writable.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            remove_tree_if_unused(path)
    folder, lock = _make_locked(f"{PREFIX}{purpose}-")
    with folder:
        try:
            yield Path(folder.name)
        finally:
            lock.release()


def _make_locked(
    prefix: str,
) -> tuple[tempfile.TemporaryDirectory[str], DirectoryLock]:
    """Make and lock a directory. Another process may remove it before it is locked."""
    for attempt in range(_ATTEMPTS):
        folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
        try:
            return folder, DirectoryLock(Path(folder.name))
        except (FileNotFoundError, BlockingIOError):
            folder.cleanup()
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")
