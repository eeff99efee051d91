"""Makes glibc's malloc return free memory to the system."""

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
TRIM_BYTES: Final = 32 * 1024 * 1024
MMAP_BYTES: Final = 4 * 1024 * 1024


def bound_malloc() -> None:
    """Give large blocks a mapping of their own, which is returned when they are freed.

    By default glibc raises the mmap threshold when such a block is freed. Later blocks then come
    from the heap, and memory that is freed after loading a model stays resident.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option:
        set_option(M_MMAP_THRESHOLD, MMAP_BYTES)
        set_option(M_TRIM_THRESHOLD, TRIM_BYTES)


def trim_memory() -> None:
    """Return free memory to the system; does nothing without glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
