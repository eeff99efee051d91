"""What a process tells the other workers of its service."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from service.versions.registry import Registry
from service.versions.trial_exchange import TrialExchange

Counts = dict[str, Any]
"""What a worker has counted, as JSON."""


class Exchange:
    """A process without other workers; `LinkedExchange` is one with others.

    Attributes:
        is_first: Whether this process does what one worker has to do for all.
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
        """Connect, and take over what an operator decided before this worker started."""

    async def stop(self) -> None:
        """Disconnect, once the registry is closed."""

    @asynccontextmanager
    async def change(self, registry: Registry) -> AsyncIterator[None]:  # noqa: ARG002
        """Keep all other workers from changes; at the end, they take over what was decided."""
        yield

    async def counts_of_others(self) -> list[Counts]:
        """What all other workers have counted, including those that have ended."""
        return []
