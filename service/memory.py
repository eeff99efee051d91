"""Memory that the process has freed but not given back: a model's file is read, rewritten and dropped as it loads."""

import ctypes


def trim_memory() -> None:
    """Give what malloc holds free back to the system; nothing happens where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
