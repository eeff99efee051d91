"""How much memory this process may use, by the machine and by the container's limit."""

from pathlib import Path
from typing import Final

from service.host.cgroup import CGROUP_ROOT, OWN_GROUPS, own_folders, read_lines, read_words

MEMINFO: Final = Path("/proc/meminfo")
_CACHES: Final = {"active_file", "inactive_file", "total_active_file", "total_inactive_file"}
"""Fields of `memory.stat` (v2 and v1): the kernel frees these pages when memory is short."""


def memory_limit(
    cgroup_root: Path = CGROUP_ROOT, own_groups: Path = OWN_GROUPS, meminfo: Path = MEMINFO
) -> int | None:
    """The machine's memory or the smallest cgroup limit in bytes; None if neither is known."""
    limits = [limit for limit, _ in _groups(cgroup_root, own_groups)]
    return min([*limits, *_meminfo_bytes(meminfo, "MemTotal")], default=None)


def available_memory(
    cgroup_root: Path = CGROUP_ROOT, own_groups: Path = OWN_GROUPS, meminfo: Path = MEMINFO
) -> int | None:
    """Bytes that can still be allocated within every limit; None if that is not known."""
    free = [max(0, limit - used) for limit, used in _groups(cgroup_root, own_groups)]
    return min([*free, *_meminfo_bytes(meminfo, "MemAvailable")], default=None)


def _groups(cgroup_root: Path, own_groups: Path) -> list[tuple[int, int]]:
    """The limit and the used bytes of every cgroup of this process that has a limit."""
    folders = [
        (cgroup_root / folder, "memory.max", "memory.current")
        for folder in own_folders(own_groups, "")
    ]
    folders += [
        (cgroup_root / "memory" / folder, "memory.limit_in_bytes", "memory.usage_in_bytes")
        for folder in own_folders(own_groups, "memory")
    ]
    groups = []
    for folder, limit_name, usage_name in folders:
        match read_words(folder / limit_name), read_words(folder / usage_name):
            case [limit], [usage] if limit != "max":
                groups.append((int(limit), int(usage) - _cache_bytes(folder / "memory.stat")))
            case _:
                pass
    return groups


def _cache_bytes(stat: Path) -> int:
    fields = dict(line.split() for line in read_lines(stat))
    v1 = "total_inactive_file" in fields  # beside it, `inactive_file` leaves out child groups
    names = (name for name in _CACHES if name.startswith("total_") == v1)
    return sum(int(fields.get(name, 0)) for name in names)


def _meminfo_bytes(meminfo: Path, name: str) -> list[int]:
    for line in read_lines(meminfo):
        match line.split():
            case [label, kibibytes, "kB"] if label == f"{name}:":
                return [int(kibibytes) * 1024]
            case _:
                pass
    return []
