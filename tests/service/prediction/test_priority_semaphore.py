"""The order in which images get a decoder process."""

import asyncio

import pytest
from asgi_application import until

from service.prediction.decode_pool import PrioritySemaphore

pytestmark = pytest.mark.anyio


class Waiters:
    """Tasks that take a place of the semaphore in the order in which they are granted one."""

    def __init__(self, places: int) -> None:
        self.semaphore = PrioritySemaphore(places)
        self.granted: list[str] = []

    async def add(self, name: str, cost: float) -> "asyncio.Task[None]":
        """Start a waiter, and return once it waits or has its place."""
        waiting = len(self.semaphore._waiters)
        task = asyncio.create_task(self._take(name, cost))
        await until(lambda: name in self.granted or len(self.semaphore._waiters) > waiting)
        return task

    async def _take(self, name: str, cost: float) -> None:
        await self.semaphore.acquire(cost)
        self.granted.append(name)


async def test_places_are_granted_by_cost_and_then_by_arrival() -> None:
    """Two places are free; each released one goes to the cheapest waiter."""
    waiters = Waiters(2)
    tasks = [
        await waiters.add(name, cost)
        for name, cost in (("a", 9), ("b", 9), ("c", 5), ("d", 1), ("e", 1), ("f", 7))
    ]
    assert waiters.granted == ["a", "b"]
    for count in range(3, 7):
        waiters.semaphore.release()
        await until(lambda count=count: len(waiters.granted) == count)
    assert waiters.granted == ["a", "b", "d", "e", "c", "f"]
    await asyncio.gather(*tasks)


async def test_waiters_ahead_are_those_that_do_not_cost_more() -> None:
    """A waiter that was cancelled is not ahead."""
    waiters = Waiters(1)
    tasks = [await waiters.add(str(cost), cost) for cost in (0, 1, 2, 2, 3)]
    assert [waiters.semaphore.ahead_of(cost) for cost in (0, 1, 2, 3)] == [0, 1, 3, 4]
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert [waiters.semaphore.ahead_of(cost) for cost in (0, 1, 2, 3)] == [0, 0, 2, 3]
    for task in tasks[2:]:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("granted", [True, False])
async def test_cancelled_waiter_loses_no_place(granted: bool) -> None:
    """Also if its place is granted in the same turn of the event loop."""
    waiters = Waiters(1)
    await waiters.add("first", 0)
    leaver, other = await waiters.add("leaver", 1), await waiters.add("other", 2)
    if granted:
        waiters.semaphore.release()
    leaver.cancel()
    await asyncio.wait([leaver])
    if not granted:
        waiters.semaphore.release()
    await other
    assert waiters.granted == ["first", "other"]
    waiters.semaphore.release()
    await waiters.add("last", 0)
    assert waiters.semaphore._free == 0
