"""Admission: refuses what there is no room or no time for, before the work is done rather than after."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from service.batcher import INTERACTIVE, Priority
from service.errors import OverloadedError, TooLargeError

RETRY_AFTER_SECONDS: Final = 1


class UploadBudget:
    """Counts the bytes of the bodies that are held. Used from the event loop alone."""

    def __init__(self, max_upload_bytes: int) -> None:
        self._max_upload_bytes = max_upload_bytes
        self.held_bytes = 0

    @contextmanager
    def upload(self) -> Iterator[Callable[[int], None]]:
        """Hold room for a body as its bytes arrive: call what this yields with each chunk's length.

        Raises OverloadedError where there is none. A body alone is always taken.
        """
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self.held_bytes + max(count, 1) > self._max_upload_bytes and self.held_bytes > held:
                raise _overloaded(f"bodies of {self.held_bytes:,} bytes are being held; {self._max_upload_bytes:,} are allowed")
            self.held_bytes += count
            held += count

        try:
            hold(0)
            yield hold
        finally:
            self.held_bytes -= held


class Admission:
    """Counts a version's images that were let in and have no answer yet. Used from the event loop alone.

    `predict_seconds(ahead, images, priority)` says how long so many new images take that stand behind so many others.
    """

    def __init__(self, max_queue_size: int, predict_seconds: Callable[[int, int, Priority], float]) -> None:
        self._max_queue_size = max_queue_size
        self._predict_seconds = predict_seconds
        self._interactive = self._bulk = 0

    @property
    def images(self) -> int:
        """Let in, without an answer."""
        return self._interactive + self._bulk

    def check_room(self, priority: Priority = INTERACTIVE) -> None:
        """Raise OverloadedError where the queue is full, so that no body is read in vain."""
        if (ahead := self._ahead_of(priority)) >= self._max_queue_size:
            raise self._full(priority, f"{ahead} images wait already; {self._max_queue_size} are allowed")

    @contextmanager
    def queue(
        self, count: int, remaining_seconds: float = math.inf, priority: Priority = INTERACTIVE, decode_seconds: float = 0.0
    ) -> Iterator[None]:
        """Hold room for a request's images. Raises TooLargeError, and OverloadedError where they find no room or would be late.

        `decode_seconds` is the wait before the version's own, for a decoder. Where there is no other they are let in whatever is
        predicted: only what runs can correct a prediction.
        """
        if count > self._max_queue_size:
            raise TooLargeError(f"{count} images never fit in the queue of {self._max_queue_size}", code="too_many_images")
        ahead = self._ahead_of(priority)
        if ahead + count > self._max_queue_size:
            raise self._full(
                priority, f"{ahead} images wait already, and {count} more would pass the {self._max_queue_size} allowed"
            )
        if self.images and (wait := decode_seconds + self._predict_seconds(ahead, count, priority)) > remaining_seconds:
            raise _overloaded(
                f"the answer would take {wait * 1e3:,.0f} ms, and {max(remaining_seconds, 0) * 1e3:,.0f} ms are left",
                wait - remaining_seconds,
            )
        self._count(count, priority)
        try:
            yield
        finally:
            self._count(-count, priority)

    def _count(self, count: int, priority: Priority) -> None:
        if priority == INTERACTIVE:
            self._interactive += count
        else:
            self._bulk += count

    def _ahead_of(self, priority: Priority) -> int:
        """Bulk counts for bulk alone: interactive images are taken before it, and find room whatever waits of it."""
        return self._interactive if priority == INTERACTIVE else self.images

    def _full(self, priority: Priority, detail: str) -> OverloadedError:
        return _overloaded(detail, self._predict_seconds(self._ahead_of(priority), 0, priority))


def _overloaded(detail: str, wait_seconds: float = 0.0) -> OverloadedError:
    seconds = max(RETRY_AFTER_SECONDS, math.ceil(wait_seconds))
    return OverloadedError(f"{detail}; come again in {seconds} s", headers={"Retry-After": str(seconds)})
