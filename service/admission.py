"""Admission: refuses what there is no room for, before the work is done rather than after."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import OverloadedError, TooLargeError

RETRY_AFTER_SECONDS = 1


class Admission:
    """Counts what is under way: bytes of bodies and images not yet answered. Used from the event loop alone."""

    def __init__(self, max_upload_bytes: int, max_queue_size: int) -> None:
        self._max_upload_bytes = max_upload_bytes
        self._max_queue_size = max_queue_size
        self.upload_bytes = 0
        self.images = 0

    @contextmanager
    def upload(self) -> Iterator[Callable[[int], None]]:
        """Hold room for a body as its bytes arrive: call what this yields with each chunk's length.

        Raises OverloadedError where there is none, or at once where the queue is full anyway. A body alone is always taken.
        """
        if self.images >= self._max_queue_size:
            raise _overloaded(f"{self.images} images wait already; {self._max_queue_size} are allowed")
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self.upload_bytes + max(count, 1) > self._max_upload_bytes and self.upload_bytes > held:
                raise _overloaded(f"bodies of {self.upload_bytes:,} bytes are being held; {self._max_upload_bytes:,} are allowed")
            self.upload_bytes += count
            held += count

        try:
            hold(0)
            yield hold
        finally:
            self.upload_bytes -= held

    @contextmanager
    def queue(self, count: int) -> Iterator[None]:
        """Hold room for a request's images. Raises OverloadedError where there is none."""
        if count > self._max_queue_size:
            raise TooLargeError(f"{count} images never fit in the queue of {self._max_queue_size}", code="too_many_images")
        if self.images + count > self._max_queue_size:
            raise _overloaded(f"{self.images} images wait already, and {count} more would pass the {self._max_queue_size} allowed")
        self.images += count
        try:
            yield
        finally:
            self.images -= count


def _overloaded(detail: str) -> OverloadedError:
    return OverloadedError(f"{detail}; come again in {RETRY_AFTER_SECONDS} s", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
