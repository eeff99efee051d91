"""The state of rate limits in memory that all workers share."""

import fcntl
import hashlib
import mmap
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SLOTS: Final = 4096
_SLOT: Final = struct.Struct("=16sdd")  # the digest of a name, tokens, and when they were counted
_FREE: Final = bytes(16)


class SharedBuckets:
    """The tokens of each rate limit, by name. Create it before the workers are forked."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SLOTS * _SLOT.size)
        # POSIX locks belong to a process, so forks do not inherit them.
        self._lock_file = tempfile.TemporaryFile()  # noqa: SIM115  as long as the service runs

    def close(self) -> None:
        self._memory.close()
        self._lock_file.close()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out. The kernel releases the lock of a process that is killed."""
        fcntl.lockf(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock_file, fcntl.LOCK_UN)

    def read(self, name: str) -> tuple[float, float] | None:
        """Tokens and their time; None if there are none yet. Call it with the lock."""
        digest, tokens, updated = _SLOT.unpack_from(self._memory, self._offset(name))
        return None if digest == _FREE else (tokens, updated)

    def write(self, name: str, tokens: float, updated: float) -> None:
        """Store what `read` returns. Call it with the lock."""
        _SLOT.pack_into(self._memory, self._offset(name), _digest(name), tokens, updated)

    def _offset(self, name: str) -> int:
        """Where the name is, or the first free slot for it."""
        digest = _digest(name)
        first = int.from_bytes(digest[:4], "big")
        offsets = ((first + step) % SLOTS * _SLOT.size for step in range(SLOTS))
        for offset in offsets:
            if self._memory[offset : offset + len(digest)] in {digest, _FREE}:
                return offset
        return first % SLOTS * _SLOT.size  # all are in use, so two names share one


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:16]
