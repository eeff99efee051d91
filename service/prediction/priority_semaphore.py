"""A semaphore whose waiters have costs. Not thread-safe: use it on the event loop only."""

import asyncio
from heapq import heappop, heappush
from itertools import count


class PrioritySemaphore:
    """A semaphore that grants the cheapest waiter first, so huge images do not delay small ones.

    Its units are places in a pool, or bytes of memory.
    """

    def __init__(self, units: float) -> None:
        self.units = units
        self._free = units
        self._waiters: list[tuple[float, int, int, asyncio.Future[None]]] = []
        self._sequence = count()

    async def acquire(self, cost: float, units: int = 1) -> None:
        """Wait for units. They must not be more than there are."""
        if units <= self._free and not self.ahead_of(cost):
            self._free -= units
        else:
            granted = asyncio.get_running_loop().create_future()
            heappush(self._waiters, (cost, next(self._sequence), units, granted))
            try:
                await granted
            except asyncio.CancelledError:
                # Those behind it may fit now. It may have been granted in this loop iteration.
                self.release(0 if granted.cancelled() else units)
                raise

    def ahead_of(self, cost: float) -> int:
        """Number of waiters that come before a new one of this cost."""
        return sum(other <= cost and not granted.done() for other, *_, granted in self._waiters)

    def release(self, units: int = 1) -> None:
        self._free += units
        while self._waiters:
            *_, wanted, granted = self._waiters[0]
            if not granted.done():
                if wanted > self._free:
                    return
                self._free -= wanted
                granted.set_result(None)
            heappop(self._waiters)
