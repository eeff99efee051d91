"""The number of CPUs that this process may use, by affinity and by the container's quota."""

import math
import os
from pathlib import Path, PurePosixPath
from typing import Final

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
OWN_GROUPS: Final = Path("/proc/self/cgroup")


def cpu_limit(cgroup_root: Path = CGROUP_ROOT, own_groups: Path = OWN_GROUPS) -> int:
    """The smaller of the affinity mask and the cgroup quota (v2 or v1), rounded up, at least 1.

    A container sees its own cgroup as the root. A systemd unit, or a container in the host's
    namespace, finds it further down the tree.
    """
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quotas = [_quota_v2(cgroup_root / folder) for folder in _folders(own_groups, "")]
    quotas += [_quota_v1(cgroup_root / "cpu" / folder) for folder in _folders(own_groups, "cpu")]
    return max(1, min([affinity, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def _folders(own_groups: Path, controller: str) -> list[PurePosixPath]:
    """This process's cgroup and all its parents, each of which may have a quota.

    `controller` is empty for v2. Format: man 7 cgroups, /proc/pid/cgroup.
    """
    for line in _lines(own_groups):
        _, controllers, path = line.split(":", 2)
        group = PurePosixPath(path.lstrip("/"))
        if controller in controllers.split(",") and ".." not in group.parts:
            return [group, *group.parents]
    return [PurePosixPath()]


def _quota_v2(group: Path) -> float | None:
    match _words(group / "cpu.max"):
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
        case _:
            return None


def _quota_v1(group: Path) -> float | None:
    match _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us"):
        case [quota], [period] if int(quota) > 0:
            return int(quota) / int(period)
        case _:
            return None


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
