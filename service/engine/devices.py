"""One session a GPU behind one `run`."""

import threading
from collections.abc import Sequence

from model_store.preprocessing import Pixels
from model_store.session import Logits, RunControl, Session


class Devices:
    """Runs of one model on several sessions at once: each goes to the one with the fewest under way, and to one alone."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = sessions
        self._under_way = [0] * len(sessions)
        self._changed = threading.Lock()

    def run(self, images: Pixels, control: RunControl | None = None) -> Logits:
        """As `Session.run`."""
        if len(self._sessions) == 1:
            return self._sessions[0].run(images, control)
        with self._changed:
            place = self._under_way.index(min(self._under_way))
            self._under_way[place] += 1
        try:
            return self._sessions[place].run(images, control)
        finally:
            with self._changed:
                self._under_way[place] -= 1
