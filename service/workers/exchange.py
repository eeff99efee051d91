"""Shares the state of a process with the other workers of its service."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from service.versions.registry import Registry
from service.versions.trial_exchange import TrialExchange

Counts = dict[str, Any]
"""What a worker has counted, as JSON."""


class Exchange:
    """For a process without other workers. `LinkedExchange` is for several workers.

    Attributes:
        is_first: Whether this process does the tasks that only one worker must do.
        trials: Keeps several workers from trying the same version.
        read_counts: What this process has counted since its start.
        on_all_loaded: Called in one worker, once all of them have loaded their models.
    """

    def __init__(self) -> None:
        self.is_first = True
        self.trials = TrialExchange()
        self.read_counts: Callable[[], Counts] = dict
        self.on_all_loaded: Callable[[], None] = lambda: None

    async def start(self, registry: Registry) -> None:
        """Connect, and adopt what an operator decided before this worker started."""

    async def stop(self) -> None:
        """Disconnect, once the registry is closed."""

    @asynccontextmanager
    async def change(self, registry: Registry) -> AsyncIterator[None]:  # noqa: ARG002
        """Block changes in all other workers; at the end, they adopt what was decided."""
        yield

    async def counts_of_others(self) -> list[Counts]:
        """What all other workers have counted, including those that have ended."""
        return []
