"""The trouble log: one line for what is wrong, and no second one as long as it stays the same."""

import logging
import threading

logger = logging.getLogger(__name__)


class LogOnChange:
    """Remembers what was last said of each subject. For use from all threads."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._lock = threading.Lock()

    def tell(self, subject: str, trouble: str | None) -> None:
        """Log what is wrong with the subject unless it was said last, too; None: nothing is, any more."""
        with self._lock:
            told = self._said.pop(subject, None)
            if trouble:
                self._said[subject] = trouble
        if trouble and trouble != told:
            logger.error("%s", trouble)
