"""Versions that were removed from the registry and close after their last request."""

import logging
import threading
from contextlib import suppress

from service.engine.loaded_version import LoadedVersion
from service.host.malloc import trim_memory

logger = logging.getLogger(__name__)


class DrainingVersions:
    """Closes versions in the background, each in a thread of its own."""

    def __init__(self) -> None:
        # Replaced, never changed in place: other threads read it.
        self._draining: tuple[tuple[str, int, threading.Thread], ...] = ()

    def drain(self, loaded: LoadedVersion) -> None:
        """Close a version once its leases are returned. It must have left the registry."""
        model, number = loaded.version.model, loaded.version.number
        logger.info("version draining model=%s version=%d", model, number)
        thread = threading.Thread(
            target=_close, args=(loaded,), name=f"drain {loaded.version}", daemon=True
        )
        self._draining = (*self._draining, (model, number, thread))
        _try_to_start(thread)

    def numbers(self, model: str) -> list[int]:
        """The versions of a model that still have requests."""
        return [
            number
            for name, number, thread in self._draining
            if name == model and not _has_ended(thread)
        ]

    def trim(self) -> None:
        """Return memory to the system if a version was closed since the last call."""
        for *_, thread in self._draining:
            _try_to_start(thread)
        remaining = tuple(entry for entry in self._draining if not _has_ended(entry[2]))
        if len(remaining) < len(self._draining):
            trim_memory()
        self._draining = remaining

    def join(self) -> None:
        """Block until every version is closed."""
        for *_, thread in self._draining:
            if thread.ident is None:
                thread.run()
            else:
                thread.join()


def _try_to_start(thread: threading.Thread) -> None:
    """Start a thread that has not started; if the host has no threads left, do nothing."""
    if thread.ident is None:
        with suppress(RuntimeError):
            thread.start()


def _has_ended(thread: threading.Thread) -> bool:
    return thread.ident is not None and not thread.is_alive()


def _close(loaded: LoadedVersion) -> None:
    loaded.close()
    logger.info("version unloaded model=%s version=%d", loaded.version.model, loaded.version.number)
