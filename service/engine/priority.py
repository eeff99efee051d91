"""The two priorities of a request, and how many images of each are in flight."""

from typing import Final, Literal

Priority = Literal[1, 2]
INTERACTIVE: Final = 1
BULK: Final = 2


class ImageCount:
    """Admitted images without an answer, by priority. Used on the event loop only."""

    def __init__(self) -> None:
        self._interactive = self._bulk = 0

    @property
    def images(self) -> int:
        return self._interactive + self._bulk

    def add(self, count: int, priority: Priority) -> None:
        """Add `count` images; a negative count removes them."""
        if priority == INTERACTIVE:
            self._interactive += count
        else:
            self._bulk += count

    def ahead_of(self, priority: Priority) -> int:
        """Images that run before a new one of this priority; interactive images overtake bulk."""
        return self._interactive if priority == INTERACTIVE else self.images
