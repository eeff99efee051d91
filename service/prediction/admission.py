"""Admission: rejects requests that exceed a limit or cannot meet their deadline.

Not thread-safe: use it on the event loop only.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from service.engine.priority import INTERACTIVE, ImageCount, Priority
from service.errors import OverloadedError, RejectionReason, TooLargeError

MIN_RETRY_SECONDS: Final = 1


class UploadBudget:
    """Limits the bytes of all request bodies in memory."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def upload(self) -> "Upload":
        """Start a body without bytes. A body that is alone is always accepted.

        Raises:
            OverloadedError: The budget is exhausted.
        """
        upload = Upload(self)
        upload.reserve(0)
        return upload


class Upload:
    """The bytes of one body, which are reserved until the context ends."""

    __slots__ = ("_budget", "_bytes")

    def __init__(self, budget: UploadBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def __enter__(self) -> Callable[[int], None]:
        return self.reserve

    def __exit__(self, *_: object) -> None:
        self._budget.held_bytes -= self._bytes

    def reserve(self, count: int) -> None:
        """Add the length of a chunk. Raises OverloadedError if the budget is exhausted."""
        budget = self._budget
        if budget.held_bytes + (count or 1) > budget.max_bytes and budget.held_bytes > self._bytes:
            raise overloaded(
                f"request bodies in memory are limited to {budget.max_bytes:,} bytes "
                f"(SERVICE_MAX_UPLOAD_BYTES), and {budget.held_bytes:,} are in use",
                reason="upload_bytes",
            )
        budget.held_bytes += count
        self._bytes += count


class ModelCapacity(ImageCount):
    """The images of a model in all of its versions, and the limit that they share."""

    def __init__(self, max_queue_size: int) -> None:
        super().__init__()
        self.max_queue_size = max_queue_size

    def is_full(self, priority: Priority) -> bool:
        """Whether the queue has no place for a new image of this priority."""
        return self.ahead_of(priority) >= self.max_queue_size


class Admission:
    def __init__(
        self,
        capacity: ModelCapacity,
        admitted: ImageCount,
        predict_seconds: Callable[[int, int, Priority], float],
    ) -> None:
        """Create the admission of a version.

        Args:
            capacity: The images and the limit of the model.
            admitted: The images of this version.
            predict_seconds: Given the images ahead, the new images and their priority, predicts the
                seconds until the new images finish.
        """
        self._capacity = capacity
        self._admitted = admitted
        self._predict_seconds = predict_seconds

    @property
    def images(self) -> int:
        return self._admitted.images

    def check_queue(self, priority: Priority = INTERACTIVE) -> None:
        """Raise OverloadedError if the queue is full. Called before the body is read."""
        if self._capacity.is_full(priority):
            raise self.queue_full(1, priority)

    def admit(
        self,
        count: int,
        remaining_seconds: float = math.inf,
        priority: Priority = INTERACTIVE,
        decode_seconds: float = 0.0,
    ) -> "Places":
        """Reserve places in the queue for the images of one request, until the context ends.

        Args:
            count: Number of images.
            remaining_seconds: Time until the deadline. An idle version ignores it, because only
                a run can correct a wrong prediction.
            priority: Priority of the images.
            decode_seconds: Predicted wait for a decode worker.

        Raises:
            TooLargeError: The queue could never hold so many images.
            OverloadedError: The queue is full, or the images would miss the deadline.
        """
        limit = self._capacity.max_queue_size
        if count > limit:
            raise TooLargeError(
                f"the queue holds at most {limit} images, got {count}", code="too_many_images"
            )
        if self._capacity.ahead_of(priority) + count > limit:
            raise self.queue_full(count, priority)
        if self.images:
            ahead = self._admitted.ahead_of(priority)
            seconds = decode_seconds + self._predict_seconds(ahead, count, priority)
            if seconds > remaining_seconds:
                raise overloaded(
                    f"the response is predicted to take {seconds * 1e3:,.0f} ms, "
                    f"and {max(remaining_seconds, 0) * 1e3:,.0f} ms remain until the deadline",
                    seconds - remaining_seconds,
                    reason="deadline",
                )
        return Places((self._capacity, self._admitted), count, priority)

    def queue_full(self, count: int, priority: Priority) -> OverloadedError:
        """The error for `count` new images that do not fit into the queue."""
        waiting, limit = self._capacity.ahead_of(priority), self._capacity.max_queue_size
        return overloaded(
            f"the queue is full: {waiting} of {limit} places are taken, {count} more are needed",
            self._predict_seconds(self._admitted.ahead_of(priority), 0, priority),
            reason="queue_full",
        )


class Places:
    """The places of one request in the queue, until its context ends."""

    __slots__ = ("_count", "_counts", "_priority")

    def __init__(self, counts: Sequence[ImageCount], count: int, priority: Priority) -> None:
        self._counts, self._count, self._priority = counts, count, priority
        self._add(count)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._add(-self._count)

    def _add(self, count: int) -> None:
        for images in self._counts:
            images.add(count, self._priority)


def overloaded(
    detail: str, wait_seconds: float = 0.0, *, reason: RejectionReason
) -> OverloadedError:
    """A rejection with `Retry-After`: `wait_seconds` rounded up, at least `MIN_RETRY_SECONDS`."""
    seconds = max(MIN_RETRY_SECONDS, math.ceil(wait_seconds))
    return OverloadedError(
        f"{detail}; retry after {seconds} s",
        reason=reason,
        headers={"Retry-After": str(seconds)},
    )
