"""The order in which images get a decoder process."""

import asyncio

import pytest
from asgi_application import until

from service.prediction.priority_semaphore import PrioritySemaphore

pytestmark = pytest.mark.anyio


class Waiters:
    """Tasks that take a place of the semaphore in the order in which they are granted one."""

    def __init__(self, places: int) -> None:
        self.semaphore = PrioritySemaphore(places)
        self.granted: list[str] = []

    async def add(self, name: str, cost: float, *units: int) -> "asyncio.Task[None]":
        """Start a waiter, and return once it waits or has its place."""
        waiting = len(self.semaphore._waiters)
        task = asyncio.create_task(self._take(name, cost, *units))
        await until(lambda: name in self.granted or len(self.semaphore._waiters) > waiting)
        return task

    async def _take(self, name: str, cost: float, *units: int) -> None:
        await self.semaphore.acquire(cost, *units)
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


async def test_waiter_of_many_units_is_not_overtaken_by_one_of_few() -> None:
    """Or it could wait forever; a cheaper one comes first whatever it needs."""
    waiters = Waiters(10)
    await waiters.add("first", 1, 6)
    tasks = [
        await waiters.add(name, cost, units)
        for name, cost, units in (("many", 1, 7), ("few", 1, 3), ("cheap", 0, 5))
    ]
    assert (waiters.granted, waiters.semaphore._free) == (["first"], 4)
    await waiters.add("cheapest", -1, 4)
    assert (waiters.granted, waiters.semaphore._free) == (["first", "cheapest"], 0)
    waiters.semaphore.release(6)
    await until(lambda: len(waiters.granted) == 3)
    assert (waiters.granted[-1], waiters.semaphore._free) == ("cheap", 1)
    waiters.semaphore.release(5)
    await asyncio.sleep(0)
    assert (len(waiters.granted), waiters.semaphore._free) == (3, 6)
    waiters.semaphore.release(4)
    await asyncio.gather(*tasks)
    assert (waiters.granted[3:], waiters.semaphore._free) == (["many", "few"], 0)


async def test_cancelled_waiter_of_many_units_wakes_those_behind_it() -> None:
    """They need no release, because enough units are free for them."""
    waiters = Waiters(100)
    await waiters.add("first", 0, 60)
    leaver = await waiters.add("leaver", 1, 80)
    small, other = await waiters.add("small", 2, 20), await waiters.add("other", 3, 30)
    leaver.cancel()
    await asyncio.wait([leaver])
    await asyncio.sleep(0)
    assert (waiters.granted, waiters.semaphore._free) == (["first", "small"], 20)
    waiters.semaphore.release(20)
    await asyncio.gather(small, other)
    assert waiters.semaphore._free == 10


async def test_units_of_a_cancelled_waiter_are_free_again() -> None:
    """All of them, if they were granted in the same turn of the event loop."""
    waiters = Waiters(5)
    await waiters.add("first", 0, 3)
    leaver = await waiters.add("leaver", 1, 4)
    waiters.semaphore.release(3)
    leaver.cancel()
    await asyncio.wait([leaver])
    assert (waiters.granted, waiters.semaphore._free) == (["first"], 5)
