"""The control groups of this process, which limit what a container or a systemd unit may use.

A container sees its own cgroup as the root. A systemd unit, or a container in the host's namespace,
finds it further down the tree. Format: man 7 cgroups.
"""

from pathlib import Path, PurePosixPath
from typing import Final

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
OWN_GROUPS: Final = Path("/proc/self/cgroup")


def own_folders(own_groups: Path, controller: str) -> list[PurePosixPath]:
    """This process's cgroup and all its parents, each of which may have a limit.

    `controller` is empty for v2.
    """
    for line in read_lines(own_groups):
        _, controllers, path = line.split(":", 2)
        group = PurePosixPath(path.lstrip("/"))
        if controller in controllers.split(",") and ".." not in group.parts:
            return [group, *group.parents]
    return [PurePosixPath()]


def read_words(path: Path) -> list[str]:
    return " ".join(read_lines(path)).split()


def read_lines(path: Path) -> list[str]:
    """The lines of a file; none if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
