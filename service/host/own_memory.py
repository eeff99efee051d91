"""Limits the memory of this process, so that allocations fail before Linux kills it."""

import resource
from typing import Final

from service.host.child_process import limit_memory, memory_in_use

MEMORY_SHARE: Final = 0.9
"""Share of the total memory. The rest is for decoder processes and the kernel."""
MIN_FREE_BYTES: Final = 256 * 1024 * 1024
"""The limit always leaves this much: it also counts memory that was allocated but never used."""


def limit_own_memory(total_bytes: int | None) -> None:
    """Let a model that allocates without end fail its run instead of ending the process.

    Only private, writable memory counts. Does nothing without /proc, as on macOS.

    Args:
        total_bytes: Memory of the machine or container; None if it is not known.
    """
    in_use = memory_in_use(resource.RLIMIT_DATA)
    if total_bytes is not None and in_use is not None:
        limit = max(int(MEMORY_SHARE * total_bytes), in_use + MIN_FREE_BYTES)
        limit_memory(limit, resource.RLIMIT_DATA)
