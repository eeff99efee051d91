"""Images that are submitted together: one future for all of them, which costs a tenth of many."""

import asyncio
from typing import Any


class ImageGroup:
    """Collects the result of each image. Used on the event loop only.

    Attributes:
        future: Ends in the list of the results, once each image has one. If it is cancelled, the
            images are not run.
        places: For each image a `GroupPlace`.
    """

    __slots__ = ("_missing", "_results", "future", "places")

    def __init__(self, count: int) -> None:
        self.future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._results: list[Any] = [None] * count
        self._missing = count
        self.places = [GroupPlace(self, index) for index in range(count)]

    def settle(self, index: int, result: object) -> None:
        """Keep the result of an image, or the error that it failed with."""
        self._results[index] = result
        self._missing -= 1
        if not self._missing:
            self.future.set_result(self._results)


class GroupPlace:
    """One image of a group, with the methods of a future that the batcher calls."""

    __slots__ = ("_group", "_index")

    def __init__(self, group: ImageGroup, index: int) -> None:
        self._group = group
        self._index = index

    def done(self) -> bool:
        """Whether the group no longer waits for its results."""
        return self._group.future.done()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._group.future.get_loop()

    def set_result(self, result: object) -> None:
        self._group.settle(self._index, result)

    def set_exception(self, error: Exception) -> None:
        self._group.settle(self._index, error)
