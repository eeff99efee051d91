"""Scheduling priority of a thread."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

NICENESS: Final = 10
BACKGROUND_NICENESS: Final = 15
"""Niceness of work that no request waits for."""
T = TypeVar("T")


def lower_thread_priority(least_niceness: int = NICENESS) -> None:
    """Let other threads, such as the event loop, run before the calling one. Linux only.

    The event loop feeds all instances of a model. Measured with ResNet-20 under overload on two
    cores: the p99 of rejections was 14 to 65 ms instead of 73 to 190 ms. On other systems niceness
    applies to the whole process.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = max(least_niceness, os.getpriority(os.PRIO_PROCESS, thread))
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, thread, niceness)


def run_in_background(work: Callable[[], T], least_niceness: int = BACKGROUND_NICENESS) -> T:
    """Run `work` in a thread of low priority, wait for it, and return its result.

    Threads that `work` starts have this priority too.
    """
    lower = partial(lower_thread_priority, least_niceness)
    with ThreadPoolExecutor(1, "background", lower) as pool:
        return pool.submit(work).result()
