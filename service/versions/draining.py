"""DrainingVersions: versions that left the registry and close when their last request has ended."""

import logging
import threading

from service.engine.loaded_version import LoadedVersion
from service.host.malloc import trim_memory

logger = logging.getLogger(__name__)


class DrainingVersions:
    """Closes versions in the background, each in a thread of its own."""

    def __init__(self) -> None:
        # Replaced, never changed in place: other threads read it.
        self._draining: tuple[tuple[str, int, threading.Thread], ...] = ()

    def drain(self, loaded: LoadedVersion) -> None:
        """Close a version that no new request can find, once its leases are returned."""
        model, number = loaded.version.model, loaded.version.number
        logger.info("version draining model=%s version=%d", model, number)
        thread = threading.Thread(
            target=_close, args=(loaded,), name=f"drain {loaded.version}", daemon=True
        )
        thread.start()
        self._draining = (*self._draining, (model, number, thread))

    def numbers(self, model: str) -> list[int]:
        """The versions of a model that still have requests."""
        return [
            number for name, number, thread in self._draining if name == model and thread.is_alive()
        ]

    def trim(self) -> None:
        """Return memory to the system if a version was closed since the last call."""
        alive = tuple(entry for entry in self._draining if entry[2].is_alive())
        if len(alive) < len(self._draining):
            trim_memory()
        self._draining = alive

    def join(self) -> None:
        """Block until every version is closed."""
        for *_, thread in self._draining:
            thread.join()


def _close(loaded: LoadedVersion) -> None:
    loaded.close()
    logger.info("version unloaded model=%s version=%d", loaded.version.model, loaded.version.number)
