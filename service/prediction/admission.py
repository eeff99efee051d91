"""Admission: refuses what there is no room or no time for, before the work is done rather than after."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from service.engine.priority import INTERACTIVE, ImageCount, Priority
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
                raise overloaded(
                    f"bodies of {self.held_bytes:,} bytes are being held; {self._max_upload_bytes:,} are allowed"
                )
            self.held_bytes += count
            held += count

        try:
            hold(0)
            yield hold
        finally:
            self.held_bytes -= held


class ModelCapacity(ImageCount):
    """The places for images of one model, whichever of its versions they are for. Used from the event loop alone."""

    def __init__(self, max_queue_size: int) -> None:
        super().__init__()
        self.max_queue_size = max_queue_size


class Admission:
    """Lets images in to one version as there is room for its model and time before their deadline. Used from the event loop alone.

    `predict_seconds(ahead, images, priority)` says how long so many new images take that stand behind so many others.
    """

    def __init__(
        self,
        room: ModelCapacity,
        admitted: ImageCount,
        predict_seconds: Callable[[int, int, Priority], float],
    ) -> None:
        """`room` is shared by all versions of a model, `admitted` counts the images of this version."""
        self._room = room
        self._own = admitted
        self._predict_seconds = predict_seconds

    @property
    def images(self) -> int:
        """Let in to this version, without an answer."""
        return self._own.images

    def check_room(self, priority: Priority = INTERACTIVE) -> None:
        """Raise OverloadedError where the queue is full, so that no body is read in vain."""
        if (waiting := self._room.ahead_of(priority)) >= self._room.max_queue_size:
            raise self._full(
                priority, f"{waiting} images wait already; {self._room.max_queue_size} are allowed"
            )

    @contextmanager
    def queue(
        self,
        count: int,
        remaining_seconds: float = math.inf,
        priority: Priority = INTERACTIVE,
        decode_seconds: float = 0.0,
    ) -> Iterator[None]:
        """Hold room for a request's images. Raises TooLargeError, and OverloadedError where they find no room or would be late.

        `decode_seconds` is the wait before the version's own, for a decoder. Where there is no other they are let in whatever is
        predicted: only what runs can correct a prediction.
        """
        most, waiting = self._room.max_queue_size, self._room.ahead_of(priority)
        if count > most:
            raise TooLargeError(
                f"{count} images never fit in the queue of {most}", code="too_many_images"
            )
        if waiting + count > most:
            raise self._full(
                priority,
                f"{waiting} images wait already, and {count} more would pass the {most} allowed",
            )
        ahead = self._own.ahead_of(priority)
        if (
            self.images
            and (wait := decode_seconds + self._predict_seconds(ahead, count, priority))
            > remaining_seconds
        ):
            raise overloaded(
                f"the answer would take {wait * 1e3:,.0f} ms, and {max(remaining_seconds, 0) * 1e3:,.0f} ms are left",
                wait - remaining_seconds,
            )
        self._count(count, priority)
        try:
            yield
        finally:
            self._count(-count, priority)

    def _count(self, count: int, priority: Priority) -> None:
        self._room.add(count, priority)
        self._own.add(count, priority)

    def _full(self, priority: Priority, detail: str) -> OverloadedError:
        return overloaded(detail, self._predict_seconds(self._own.ahead_of(priority), 0, priority))


def overloaded(detail: str, wait_seconds: float = 0.0) -> OverloadedError:
    """The refusal, which asks to come again once the wait is over."""
    seconds = max(RETRY_AFTER_SECONDS, math.ceil(wait_seconds))
    return OverloadedError(
        f"{detail}; come again in {seconds} s", headers={"Retry-After": str(seconds)}
    )
