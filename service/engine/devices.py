"""One session per GPU behind one `run`.

*Experimental*: tested with fake sessions only, never on several GPUs.
"""

import threading
from collections.abc import Sequence

from model_store.preprocessing import Pixels
from model_store.session import Logits, RunControl, Session


class Devices:
    """Runs one model on several sessions; each run goes to the session with the fewest runs."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = sessions
        self._runs = [0] * len(sessions)
        self._lock = threading.Lock()

    def run(self, images: Pixels, control: RunControl | None = None) -> Logits:
        if len(self._sessions) == 1:
            return self._sessions[0].run(images, control)
        with self._lock:
            device = self._runs.index(min(self._runs))
            self._runs[device] += 1
        try:
            return self._sessions[device].run(images, control)
        finally:
            with self._lock:
                self._runs[device] -= 1
