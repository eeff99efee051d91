"""The machine of a measurement, and the CPU time and memory of processes (Linux, from /proc)."""

import os
import platform
import socket
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
RELEVANT_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
)


def describe_machine(packages: Sequence[str]) -> str:
    """Processor, relevant flags, cores, load, and versions of Python and of these packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    model, present = (
        named.get("model name", platform.machine()),
        set(named.get("flags", "").split()),
    )
    flags = ", ".join(flag for flag in RELEVANT_FLAGS if flag in present)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    load = f"load {os.getloadavg()[0]:.1f}"
    return (
        f"{model} ({flags}), {cores()} cores, {load}, {platform.system()}; "
        f"Python {platform.python_version()}, {versions}"
    )


def cores() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def resident_megabytes(pid: int) -> float:
    """VmRSS of a process in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit("this measurement needs /proc, so it runs on Linux only")


def proportional_megabytes(pids: Iterable[int]) -> float:
    """Sum of the processes' PSS in MB: shared memory counts once."""
    return sum(_proportional_kibibytes(pid) for pid in pids) * 1024 / 1e6


def processor_seconds(pids: Iterable[int]) -> float:
    """CPU seconds of the processes since their start."""
    ticks = sum(int(fields[11]) + int(fields[12]) for pid in pids if (fields := _stat(pid)))
    return ticks / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    parents = {
        each: int(fields[1])
        for each in map(int, filter(str.isdecimal, os.listdir("/proc")))
        if (fields := _stat(each))
    }
    members = [pid]
    for member in members:
        members += [child for child, parent in parents.items() if parent == member]
    return members


def started(pid: int) -> int | None:
    """When a process was started, in ticks since boot; None if it does not exist."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat, beginning with the state; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _proportional_kibibytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # the process has ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
