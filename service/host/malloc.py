"""The process's memory: what malloc is to give back to the system, and when."""

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
TRIM_BYTES: Final = 32 * 1024 * 1024
MMAP_BYTES: Final = 4 * 1024 * 1024


def bound_malloc() -> None:
    """Let large blocks be maps of their own for good, which go back when they are freed.

    By itself glibc takes them from its heap once one was freed, and the holes of what loading a model leaves there stay resident.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option:
        set_option(M_MMAP_THRESHOLD, MMAP_BYTES)
        set_option(M_TRIM_THRESHOLD, TRIM_BYTES)


def trim_memory() -> None:
    """Give what malloc holds free back to the system; nothing happens where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
