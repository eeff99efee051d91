"""The end of what a child process writes to a pipe."""

import os
import re
import threading
from typing import IO, Final

MAX_BYTES: Final = 4096
MAX_LINES: Final = 20
_MAX_WAIT_SECONDS: Final = 5.0
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


class OutputTail:
    """Reads a pipe in a thread, so that its writer never blocks, and keeps the last lines.

    Raises RuntimeError if no thread can be started.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._tail = b""
        self._thread = threading.Thread(target=self._read, name="output-tail", daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        """The last lines once the writer has ended."""
        self._thread.join(_MAX_WAIT_SECONDS)
        text = _COLOURS.sub("", self._tail.decode(errors="replace"))
        return [line for line in text.splitlines() if line.strip()][-MAX_LINES:]

    def _read(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), MAX_BYTES):
                self._tail = (self._tail + chunk)[-MAX_BYTES:]
