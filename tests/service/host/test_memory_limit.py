"""Memory by the machine and by fake cgroup trees of both versions."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from service.host.memory_limit import available_memory, memory_limit

MIB = 1024 * 1024
MACHINE = "MemTotal:       8192 kB\nMemFree:         100 kB\nMemAvailable:   4096 kB\n"
GROUP = "kubepods/pod"
V1_NO_LIMIT = "9223372036854771712"


@pytest.mark.parametrize(
    ("own", "files", "limit", "available"),
    [
        ("0::/", {}, 8 * MIB, 4 * MIB),
        ("0::/", {"memory.max": "max", "memory.current": "5"}, 8 * MIB, 4 * MIB),
        ("0::/", {"memory.max": str(3 * MIB), "memory.current": str(MIB)}, 3 * MIB, 2 * MIB),
        ("0::/", {"memory.max": "10", "memory.current": "20"}, 10, 0),
        (
            "0::/",
            {
                "memory.max": str(3 * MIB),
                "memory.current": str(2 * MIB),
                "memory.stat": f"anon 7\nactive_file 100\ninactive_file {MIB}",
            },
            3 * MIB,
            2 * MIB + 100,
        ),
        (
            f"0::/{GROUP}",
            {
                f"{GROUP}/memory.max": str(2 * MIB),
                f"{GROUP}/memory.current": "0",
                "kubepods/memory.max": str(3 * MIB),
                "kubepods/memory.current": str(2 * MIB),
            },
            2 * MIB,
            MIB,
        ),
        (
            f"4:memory:/{GROUP}\n0::/",
            {
                f"memory/{GROUP}/memory.limit_in_bytes": str(2 * MIB),
                f"memory/{GROUP}/memory.usage_in_bytes": str(MIB),
                f"memory/{GROUP}/memory.stat": "inactive_file 5\ntotal_inactive_file 100",
                "memory/memory.limit_in_bytes": V1_NO_LIMIT,
                "memory/memory.usage_in_bytes": "5",
            },
            2 * MIB,
            MIB + 100,
        ),
    ],
)
def test_smallest_limit_counts(
    tmp_path: Path, own: str, files: Mapping[str, str], limit: int, available: int
) -> None:
    """Of the machine, the group and its parents. Caches of files count as available."""
    for name, text in {"own": own, "meminfo": MACHINE, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    places = (tmp_path, tmp_path / "own", tmp_path / "meminfo")
    assert (memory_limit(*places), available_memory(*places)) == (limit, available)


def test_unknown_memory_is_no_limit(tmp_path: Path) -> None:
    """As on macOS."""
    places = (tmp_path, tmp_path / "own", tmp_path / "meminfo")
    assert (memory_limit(*places), available_memory(*places)) == (None, None)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="this system has no /proc")
def test_memory_of_this_machine() -> None:
    """The real files are read without an error."""
    limit, available = memory_limit(), available_memory()
    assert limit is not None
    assert available is not None
    assert 0 < available <= limit
