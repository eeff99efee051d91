"""How many CPUs this process may really use: affinity and the container's quota, never the machine's count."""

import math
import os
from pathlib import Path
from typing import Final

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")


def cpu_limit(cgroup_root: Path = CGROUP_ROOT) -> int:
    """CPUs, at least 1: the smaller of the affinity mask and the cgroup v2 or v1 quota, a part of one counted whole."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for quota in (_quota_v2(cgroup_root), _quota_v1(cgroup_root)) if quota is not None]
    return max(1, min([affinity, *(math.ceil(quota) for quota in quotas)]))


def _quota_v2(root: Path) -> float | None:
    match _words(root / "cpu.max"):
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
        case _:
            return None


def _quota_v1(root: Path) -> float | None:
    match _words(root / "cpu/cpu.cfs_quota_us"), _words(root / "cpu/cpu.cfs_period_us"):
        case [quota], [period] if int(quota) > 0:
            return int(quota) / int(period)
        case _:
            return None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
