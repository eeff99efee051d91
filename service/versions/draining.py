"""Versions on their way out: each closed when its last request has ended, with no one waiting for that."""

import threading

from service.engine.loaded_version import LoadedVersion
from service.host.malloc import trim_memory


class DrainingVersions:
    """What has left the snapshot and may still answer. Nothing here holds a version longer than its own requests do."""

    def __init__(self) -> None:
        self._closing: tuple[
            tuple[str, int, threading.Thread], ...
        ] = ()  # replaced, never changed: others read it

    def retire(self, served: LoadedVersion) -> None:
        """Close a version that no request finds any more, once its leases are back."""
        thread = threading.Thread(target=served.close, name=f"unload {served.version}", daemon=True)
        thread.start()
        self._closing = (*self._closing, (served.version.model, served.version.number, thread))

    def numbers(self, model: str) -> list[int]:
        """The versions of a model whose requests have not ended yet."""
        return [
            number for name, number, thread in self._closing if name == model and thread.is_alive()
        ]

    def tidy(self) -> None:
        """Where a version has gone since the last call, give its memory back to the system: nothing holds it any more."""
        alive = tuple(entry for entry in self._closing if entry[2].is_alive())
        if len(alive) < len(self._closing):
            trim_memory()
        self._closing = alive

    def join(self) -> None:
        """Wait until every one is closed."""
        for *_, thread in self._closing:
            thread.join()
