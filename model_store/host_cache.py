"""A directory for what this host can make anew: used only where no other user could have put something into it.

What lies there is run (optimised graphs, compiled engines), so it is trusted as far as the program itself: each directory
must belong to this user or to root, and only its owner may write to it.
"""

import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

OWNER_ONLY: Final = 0o700
logger = logging.getLogger(__name__)


def default_host_cache() -> Path:
    """`$XDG_CACHE_HOME/resident`, else `~/.cache/resident`; for a user without a home, one in the temporary directory."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # a relative one is to be ignored, says the XDG specification
        return base / "resident"
    try:
        return Path.home() / ".cache" / "resident"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"resident-{os.geteuid()}"


def open_host_cache(root: Path, name: str) -> Path:
    """`root/name`, made where it is missing. Raises OSError that says why it can not be trusted, read or made."""
    root.parent.mkdir(parents=True, exist_ok=True)
    for folder in (root, root / name):
        folder.mkdir(mode=OWNER_ONLY, exist_ok=True)
        check_owner(folder)
    return (root / name).absolute()


def try_host_cache(root: Path, name: str) -> Path | None:
    """As `open_host_cache`, or None after a warning."""
    try:
        return open_host_cache(root, name)
    except OSError as error:
        logger.warning("the cache of %s is not used: %s", name, error)
        return None


def check_owner(folder: Path) -> None:
    """Whether what lies there can be trusted. Raises PermissionError that says why not, other OSErrors where it can not be read."""
    found = folder.stat()
    if found.st_uid not in {os.geteuid(), 0}:
        raise PermissionError(f"{folder} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            f"others can write to {folder}: chmod go-w it, or name a directory inside it that is yours alone"
        )
