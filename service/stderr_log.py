"""Log to stderr in a thread, so that a reader that stops reading never blocks the service."""

import asyncio
import logging
import os
import select
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

MAX_QUEUED_BYTES: Final = 1024 * 1024
FLUSH_SECONDS: Final = 1.0


class StderrHandler(logging.Handler):
    """Passes lines to a thread that writes them, once per iteration of the event loop.

    Under load, passing each line separately would take half of the time of logging.

    Attributes:
        dropped: Number of records dropped because `MAX_QUEUED_BYTES` were waiting.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self._descriptor = sys.stderr.fileno()
        self._lines: list[str] = []
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._queued_bytes = 0  # both only grow, with one writer each, so need no lock
        self._written_bytes = 0
        threading.Thread(target=self._write_queue, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record. The caller holds the lock of the handler."""
        try:
            self._lines.append(self.format(record) + "\n")
        except Exception:  # noqa: BLE001  as every handler of logging
            self.handleError(record)
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._hand_over()
            return
        if len(self._lines) == 1:
            loop.call_soon(self._hand_over)

    def flush(self) -> None:
        """Wait until everything is written, for at most `FLUSH_SECONDS`."""
        self._hand_over()
        written = threading.Event()
        self._queue.put(written)
        written.wait(FLUSH_SECONDS)

    def _hand_over(self) -> None:
        assert self.lock  # noqa: S101  every handler has one
        with self.lock:
            lines, self._lines = self._lines, []
            data = "".join(lines).encode(errors="backslashreplace")
            if self._queued_bytes - self._written_bytes + len(data) > MAX_QUEUED_BYTES:
                self.dropped += len(lines)
            elif data:
                self._queued_bytes += len(data)
                self._queue.put(data)

    def _write_queue(self) -> None:
        reported = 0
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            self._write(item)
            self._written_bytes += len(item)
            dropped = self.dropped - reported
            if dropped and self._queue.empty():
                self._write(b"WARNING:     log records dropped count=%d\n" % dropped)
                reported += dropped

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        with suppress(OSError, ValueError):  # stderr is closed
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:
                    select.select([], [self._descriptor], [])


def count_dropped_records() -> int:
    handlers = logging.getLogger().handlers
    return sum(handler.dropped for handler in handlers if isinstance(handler, StderrHandler))
