"""The cache directory of this host: optimised graphs, engines, trials, tuned settings, scans.

Some of these files are executed. So each directory must belong to this user or to root, and only
its owner may write to it.

::

    <cache>/versions/<key>/   versions of an object store          model_store.version_cache
    <cache>/graphs/<key>/     optimised graphs of ONNX Runtime   model_store.graph_cache
    <cache>/engines/<key>/    engines compiled by a provider     model_store.providers
    <cache>/trials/           trials of versions: passed or not  service.versions.trial_records
    <cache>/measurements/     times of warm-up                   service.engine.measurement_cache
    <cache>/tuning/           settings measured by `tune`        service.engine.tuned_settings
    <cache>/scans/<key>/      facts and pixels of data sets      training.data.scan_cache
"""

import logging
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model_store.files import DirectoryLock, remove_tree_if_unused

OWNER_ONLY: Final = 0o700
BUILDING_PREFIX: Final = ".building-"
logger = logging.getLogger(__name__)


def default_host_cache() -> Path:
    """`$XDG_CACHE_HOME/resident`, else `~/.cache/resident`, else a temporary directory.

    A relative `$XDG_CACHE_HOME` is ignored, as the XDG Base Directory Specification says. The
    temporary directory is for users without a home, such as a container's numeric user.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "resident"
    try:
        return Path.home() / ".cache" / "resident"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"resident-{os.geteuid()}"


def open_host_cache(root: Path, name: str) -> Path:
    """Return the absolute path of `root/name`, which is created if it is missing.

    Raises:
        OSError: The directory cannot be created or read, or others may write to it.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    for folder in (root, root / name):
        folder.mkdir(mode=OWNER_ONLY, exist_ok=True)
        check_owner(folder)
    return (root / name).absolute()


def try_host_cache(root: Path, name: str) -> Path | None:
    """As `open_host_cache`, but log a warning and return None where that raises."""
    try:
        return open_host_cache(root, name)
    except OSError as error:
        logger.warning("the cache directory %s is not used: %s", name, error)
        return None


def check_owner(folder: Path) -> None:
    """Check that only this user or root can write to `folder`.

    Raises:
        PermissionError: It belongs to another user, or others may write to it.
        OSError: It cannot be read.
    """
    status = folder.stat()
    if status.st_uid not in {os.geteuid(), 0}:
        raise PermissionError(f"{folder} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            f"others can write to {folder}: run `chmod go-w` on it, or choose another directory"
        )


@contextmanager
def build_entry(entry: Path) -> Iterator[Path]:
    """Build a cache entry in a hidden directory, which is renamed to `entry` when the block ends.

    An exception discards the entry. If another process finishes the same entry first, that one
    stays. Directories that killed processes left behind are deleted first. Nothing is synced:
    readers must detect files that a crash left incomplete.

    Yields:
        The empty directory to fill. Its path is not valid after the block.
    """
    for leftover in entry.parent.glob(".*"):
        remove_entry(leftover)
    building = entry.with_name(f"{BUILDING_PREFIX}{secrets.token_hex(8)}")
    building.mkdir(mode=OWNER_ONLY)
    lock = DirectoryLock(building)  # tells other processes that this one is alive
    try:
        yield building
        with suppress(OSError):
            building.rename(entry)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        lock.release()


def mark_used(file: Path) -> None:
    """Set a file's mtime to now, so that `prune_entries` sees its entry as recently used."""
    with suppress(OSError):  # it is another user's, or the file system is read-only
        os.utime(file)


def prune_entries(folder: Path, max_bytes: int, keep: Path) -> None:
    """Delete the least recently used entries until the others fit into `max_bytes`.

    Args:
        folder: A directory of the cache. Each directory or file in it is one entry; hidden ones
            are still being built and are ignored.
        max_bytes: Limit for the size of all files together.
        keep: The entry that was just written. It is never deleted.
    """
    entries = sorted(_measure_entries(folder), key=lambda entry: entry.used_at)
    total = sum(entry.size for entry in entries)
    for entry in entries:
        if total <= max_bytes:
            return
        if entry.path != keep:
            remove_entry(entry.path)
            total -= entry.size


def remove_entry(path: Path) -> None:
    """Delete an entry unless a process has it locked. Memory-mapped files stay valid."""
    with suppress(OSError):  # another process deletes it at the same time, or it is another user's
        if path.is_dir():
            remove_tree_if_unused(path)
        else:
            path.unlink()


@dataclass(frozen=True)
class _Entry:
    path: Path
    size: int
    used_at: float


def _measure_entries(folder: Path) -> list[_Entry]:
    entries = []
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        with suppress(OSError):  # another process deletes it at the same time
            files = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path])]
            used_at = max((file.st_mtime for file in files), default=0.0)
            entries.append(_Entry(path, sum(file.st_size for file in files), used_at))
    return entries
