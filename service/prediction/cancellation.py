"""Work that ends when its client has left, or its deadline has passed."""

import asyncio
import time
from typing import Any, TypeVar

from service.errors import ClientDisconnectedError, DeadlineExceededError

T = TypeVar("T")


async def finish(work: asyncio.Future[T], deadline: float, disconnected: asyncio.Future[Any]) -> T:
    """Wait for `work`. Cancel it if the client disconnects or the deadline passes first.

    Returns or raises only after all of `work` has ended, because the caller then ends its lease.
    """
    expired = False

    def cancel_disconnected(_: object) -> None:
        work.cancel()

    def cancel_expired() -> None:
        nonlocal expired
        expired = work.cancel()

    disconnected.add_done_callback(cancel_disconnected)
    timer = asyncio.get_running_loop().call_later(
        max(0.0, deadline - time.monotonic()), cancel_expired
    )
    try:
        return await work
    except asyncio.CancelledError:
        if expired:
            raise DeadlineExceededError("the deadline passed before the result was ready") from None
        if disconnected.done():
            raise ClientDisconnectedError from None
        raise
    finally:
        timer.cancel()
        disconnected.remove_done_callback(cancel_disconnected)
