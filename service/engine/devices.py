"""One session per GPU behind one `run`.

*Experimental*: tested with fake sessions only, never on several GPUs.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from model_store.preprocessing import Pixels
from model_store.session import Embeddings, FeatureMaps, Logits, RunControl, Session
from service.engine.extras import EMBEDDING, FEATURES, Extras

Scores = TypeVar("Scores")


class Devices:
    """Runs one model on several sessions; each run goes to the session with the fewest runs."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = sessions
        self._runs = [0] * len(sessions)
        self._lock = threading.Lock()

    def run(self, images: Pixels, control: RunControl | None = None) -> Logits:
        return self._run(lambda session: session.run(images, control))

    def run_with(
        self, extras: Extras, images: Pixels, control: RunControl | None
    ) -> tuple[Logits, Embeddings | None, FeatureMaps | None]:
        return self._run(
            lambda session: session.run_with_extras(
                images,
                control,
                embedding=bool(extras & EMBEDDING),
                features=bool(extras & FEATURES),
            )
        )

    def _run(self, run: Callable[[Session], Scores]) -> Scores:
        if len(self._sessions) == 1:
            return run(self._sessions[0])
        with self._lock:
            device = self._runs.index(min(self._runs))
            self._runs[device] += 1
        try:
            return run(self._sessions[device])
        finally:
            with self._lock:
                self._runs[device] -= 1
