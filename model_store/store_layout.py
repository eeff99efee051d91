"""Finds the models of a root: a store, the directory of one model, or one version.

::

    <root>/<model>/<version>/manifest.json    a store
    <root>/<version>/manifest.json            one model
    <root>/manifest.json                      one version

The last two are how Kubernetes mounts a model, often read-only and behind a symbolic link.
"""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from model_store.errors import StoreUnreadableError
from model_store.files import follow_link, read_bounded
from model_store.manifest import MANIFEST_NAME
from model_store.names import is_name, is_version_name, parse_version
from model_store.version import MAX_MANIFEST_BYTES

UNNAMED = "model"


@dataclass(frozen=True)
class SingleModel:
    """A root that has one model instead of directories of models.

    Attributes:
        name: The name under which it is served.
        versions: The directory of each version by its number, ascending.
        is_version: The root itself is the version, so nothing may be written into it.
    """

    name: str
    versions: Mapping[int, Path]
    is_version: bool


def find_single_model(
    root: Path, names: Sequence[str], served_name: str | None = None
) -> SingleModel | None:
    """Return the model if `root` has only one, or None if it is a store.

    Args:
        root: The root. It may be a symbolic link.
        names: Names of the directories in it.
        served_name: The name of the model. Default: the name in its manifest.

    Raises:
        StoreUnreadableError: The root cannot be read.
    """
    is_version = has_manifest(root)
    if is_version:
        directory = follow_link(root)
        names = [path.name for path in (root, directory) if is_version_name(path.name)]
        versions = {int(names[0]) if names else 1: directory}
    else:
        versions = {number: root / str(number) for number in _only_versions(root, names)}
    if not versions:
        return None
    newest = versions[max(versions)]
    return SingleModel(served_name or _name_in_manifest(newest), versions, is_version)


def _name_in_manifest(version: Path) -> str:
    path = version / MANIFEST_NAME
    try:
        status = path.stat()
        return _read_name(path, status.st_ino, status.st_mtime_ns, status.st_size)
    except OSError:
        return UNNAMED


@lru_cache(maxsize=8)  # the service calls this at every check of the store
def _read_name(path: Path, *_file_state: int) -> str:
    try:
        document = json.loads(read_bounded(path, MAX_MANIFEST_BYTES))
        name = document["model"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return UNNAMED  # opening the version reports what is wrong with its manifest
    return name if isinstance(name, str) and is_name(name) else UNNAMED


def directories(root: Path) -> list[str]:
    """Names of the directories in `root`, sorted. Raises StoreUnreadableError."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except FileNotFoundError as error:
        raise StoreUnreadableError(
            f"the model store {root} does not exist: check the path, or create it with "
            f"mkdir -p {shlex.quote(str(root))}"
        ) from error
    except OSError as error:
        raise StoreUnreadableError(
            f"the model store {root} cannot be read: {error.strerror}"
        ) from error


def version_numbers(model_directory: Path) -> list[int]:
    """Numbers of the versions in the directory of a model. Raises StoreUnreadableError."""
    try:
        names = directories(model_directory)
    except StoreUnreadableError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # deleted since it was listed
            return []
        raise
    return _only_versions(model_directory, names)


def _only_versions(model_directory: Path, names: Sequence[str]) -> list[int]:
    return sorted(
        parse_version(name)
        for name in names
        if is_version_name(name) and has_manifest(model_directory / name)
    )


def has_manifest(directory: Path) -> bool:
    """Whether a directory looks like a version. Raises StoreUnreadableError."""
    try:
        (directory / MANIFEST_NAME).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StoreUnreadableError(f"{directory} cannot be read: {error.strerror}") from error
    return True
