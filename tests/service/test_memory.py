"""Memory that was freed goes back to the system."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from service.memory import return_freed_memory

BLOCKS = 2000
BYTES = 64 * 1024  # below what the allocator maps by itself, so that it comes from its arena


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="there is no glibc here")
def test_freed_memory_goes_back_to_the_system() -> None:
    """What lies free below something that is still used would stay resident; it goes, and what is used stays."""
    blocks = [np.ones(BYTES, np.uint8) for _ in range(BLOCKS)]
    last = blocks[-1]
    blocks.clear()
    before = resident_bytes()
    return_freed_memory()
    assert before - resident_bytes() > BLOCKS * BYTES / 2
    assert last.all()


def test_nothing_happens_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other allocators know no such call, and need none."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    return_freed_memory()
