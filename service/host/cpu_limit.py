"""The number of CPUs that this process may use, by affinity and by the container's quota."""

import math
import os
from pathlib import Path

from service.host.cgroup import CGROUP_ROOT, OWN_GROUPS, own_folders, read_words


def cpu_limit(cgroup_root: Path = CGROUP_ROOT, own_groups: Path = OWN_GROUPS) -> int:
    """The smaller of the affinity mask and the cgroup quota (v2 or v1), rounded up, at least 1."""
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quotas = [_quota_v2(cgroup_root / folder) for folder in own_folders(own_groups, "")]
    quotas += [_quota_v1(cgroup_root / "cpu" / folder) for folder in own_folders(own_groups, "cpu")]
    return max(1, min([affinity, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def _quota_v2(group: Path) -> float | None:
    match read_words(group / "cpu.max"):
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
        case _:
            return None


def _quota_v1(group: Path) -> float | None:
    match read_words(group / "cpu.cfs_quota_us"), read_words(group / "cpu.cfs_period_us"):
        case [quota], [period] if int(quota) > 0:
            return int(quota) / int(period)
        case _:
            return None
