"""Limits that a child process of the service sets for itself."""

import ctypes
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_STATM_FIELD: Final = {resource.RLIMIT_AS: 0, resource.RLIMIT_DATA: 5}
"""Where /proc/self/statm has the pages that a limit counts."""


def ignore_signals_for_the_service() -> None:
    """Ignore Ctrl-C and SIGTERM: the service decides when this process ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def end_with_the_service() -> None:
    """Let Linux kill this process when the thread that started it ends, even in a long call."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def memory_in_use(kind: int = resource.RLIMIT_AS) -> int | None:
    """The bytes that `limit_memory` counts now; None without /proc, as on macOS.

    Args:
        kind: `RLIMIT_AS` counts all mappings, `RLIMIT_DATA` only private, writable ones.
    """
    with suppress(OSError, ValueError):
        pages = Path("/proc/self/statm").read_text().split()[_STATM_FIELD[kind]]
        return int(pages) * resource.getpagesize()
    return None


def limit_memory(limit: int, kind: int = resource.RLIMIT_AS) -> None:
    """Make allocations fail after which this process would use more than `limit` bytes."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, hard))


def write_no_core_dumps() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def be_killed_first() -> None:
    """Let Linux kill this process and not the service if memory runs out (man 5 proc)."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
