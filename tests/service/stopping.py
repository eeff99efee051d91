"""End a thread of this process, as a fault inside it would."""

import ctypes
import threading

from server_process import PATIENCE_SECONDS


def end_thread(thread: threading.Thread, condition: threading.Condition) -> None:
    """Raise SystemExit in a thread, and wake it if it waits. Returns once it has ended."""
    assert thread.ident
    exit_type = ctypes.py_object(SystemExit)
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), exit_type) == 1
    with condition:
        condition.notify_all()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
