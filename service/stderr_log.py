"""Log to stderr so that a reader that stops reading never blocks the service."""

import logging
import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

MAX_QUEUED_BYTES: Final = 1024 * 1024
MAX_WRITE_BYTES: Final = select.PIPE_BUF
"""Several workers write to one pipe. Up to this size, their writes do not mix (man 7 pipe)."""
WRITE_INTERVAL_SECONDS: Final = 0.05
FLUSH_SECONDS: Final = 1.0


class DirectStderrHandler(logging.Handler):
    """Writes each line at once, for a process without threads; drops it if nobody reads."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            descriptor = sys.stderr.fileno()
            if select.select([], [descriptor], [], 0)[1]:
                os.write(descriptor, line)
        except Exception:  # noqa: BLE001  as every handler of logging
            self.handleError(record)


class StderrHandler(logging.Handler):
    """Queues lines for a thread, which writes them together every `WRITE_INTERVAL_SECONDS`.

    Waking the thread for each line would take the GIL from the event loop: under load, that would
    cost 30 us per request.

    Attributes:
        dropped: Number of records dropped because `MAX_QUEUED_BYTES` were waiting.
    """

    lock: threading.RLock

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self._descriptor = sys.stderr.fileno()
        self._lines: list[bytes] = []
        self._unwritten_bytes = 0
        self._flushing = False
        self._changed = threading.Condition(self.lock)
        threading.Thread(target=self._write_lines, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record. The caller holds `lock`."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001  as every handler of logging
            self.handleError(record)
            return
        if self._unwritten_bytes + len(line) > MAX_QUEUED_BYTES:
            self.dropped += 1
            return
        self._unwritten_bytes += len(line)
        self._lines.append(line)
        if len(self._lines) == 1:
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written, for at most `FLUSH_SECONDS`."""
        with self._changed:
            self._flushing = True  # ends the interval, also one that has yet to begin
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._unwritten_bytes, FLUSH_SECONDS)
            self._flushing = False

    def _write_lines(self) -> None:
        reported = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                self._changed.wait_for(lambda: self._flushing, WRITE_INTERVAL_SECONDS)
                lines, self._lines = self._lines, []
            for data in _join_lines(lines):
                self._write(data)
            with self._changed:
                self._unwritten_bytes -= sum(map(len, lines))
                self._changed.notify_all()
                dropped = 0 if self._lines else self.dropped - reported
            if dropped:
                self._write(self._report_dropped(dropped))
                reported += dropped

    def _report_dropped(self, count: int) -> bytes:
        text = "log records dropped count=%d"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (count,), None)
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        with suppress(OSError, ValueError):  # stderr is closed
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:
                    select.select([], [self._descriptor], [])


def _join_lines(lines: list[bytes]) -> Iterator[bytes]:
    """Whole lines of together at most `MAX_WRITE_BYTES`, or one longer line."""
    data = b""
    for line in lines:
        if data and len(data) + len(line) > MAX_WRITE_BYTES:
            yield data
            data = b""
        data += line
    yield data


def count_dropped_records() -> int:
    handlers = logging.getLogger().handlers
    return sum(handler.dropped for handler in handlers if isinstance(handler, StderrHandler))
