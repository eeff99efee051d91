"""How many connections each worker has, in memory that all of them share."""

import mmap
import struct
import time
from typing import Final

FRESH_SECONDS: Final = 0.5
"""A worker that has not updated its count for this long hangs, and is ignored."""
_ENTRY: Final = struct.Struct("=qd")  # number of connections, and when the worker wrote it


class ConnectionCounts:
    """Create it before the workers are forked. Each worker writes only its own count."""

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, workers * _ENTRY.size)

    def close(self) -> None:
        self._memory.close()

    def set(self, number: int, count: int) -> None:
        _ENTRY.pack_into(self._memory, (number - 1) * _ENTRY.size, count, time.monotonic())

    def clear(self, number: int) -> None:
        """Mark a worker as accepting no connections."""
        _ENTRY.pack_into(self._memory, (number - 1) * _ENTRY.size, 0, 0.0)

    def fewest_of_others(self, number: int) -> int | None:
        """The fewest connections that another worker has; None if no other one accepts any."""
        entries = list(_ENTRY.iter_unpack(self._memory[:]))
        del entries[number - 1]
        since = time.monotonic() - FRESH_SECONDS
        return min((count for count, written_at in entries if written_at > since), default=None)
