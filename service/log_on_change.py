"""Log a problem once, and again only when it changes."""

import logging
import threading


class LogOnChange:
    """Remembers the last problem of each subject. Thread-safe."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._problems: dict[str, str] = {}
        self._lock = threading.Lock()

    def report(self, subject: str, problem: str, exc_info: BaseException | None = None) -> None:
        """Log the subject's problem as an error, unless it is the same as last time."""
        with self._lock:
            changed = self._problems.get(subject) != problem
            self._problems[subject] = problem
        if changed:
            self._logger.error("%s", problem, exc_info=exc_info)

    def clear(self, subject: str) -> bool:
        """Forget the subject's problem. Returns True if it had one."""
        with self._lock:
            return self._problems.pop(subject, None) is not None
