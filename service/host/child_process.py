"""How child processes of the service start, and the limits that they set for themselves.

The children import this module, so its imports are few.
"""

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from service.host.malloc import bound_malloc

_PR_SET_PDEATHSIG: Final = 1
_STATM_FIELD: Final = {resource.RLIMIT_AS: 0, resource.RLIMIT_DATA: 5}
"""Where /proc/self/statm has the pages that a limit counts."""


def child_command(module: str, *arguments: int) -> list[str]:
    """The command that calls `main` of a module, which finds modules where this process does."""
    call = f"main({', '.join(map(str, arguments))})"
    program = f"import sys; sys.path[:] = sys.argv[1:]; from {module} import main; {call}"
    return [sys.executable, "-c", program, *sys.path]


def child_options() -> dict[str, Any]:
    """Options of `subprocess.Popen` for every child process."""
    return {
        "env": {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        "start_new_session": True,  # so that Ctrl-C reaches only the service
    }


def prepare_child_process() -> None:
    """Tie this process to the service and bound what it leaves behind. Call it first in `main`."""
    ignore_signals_for_the_service()
    end_with_the_service()
    be_killed_first()
    write_no_core_dumps()
    bound_malloc()


def ignore_signals_for_the_service() -> None:
    """Ignore Ctrl-C and SIGTERM: the service decides when this process ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def end_with_the_service() -> None:
    """Let Linux kill this process when the thread that started it ends, even in a long call."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def write_no_core_dumps() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def be_killed_first() -> None:
    """Let Linux kill this process and not the service if memory runs out (man 5 proc)."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


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
