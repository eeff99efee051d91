"""The watcher: loads what the store wishes at the start, and looks for newer wishes as long as the service runs."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from service.versions.registry import Registry

logger = logging.getLogger(__name__)


async def watch(
    registry: Registry,
    poll_seconds: float,
    stopping: asyncio.Event,
    on_loaded: Callable[[Registry], None] = lambda _: None,
) -> None:
    """Bring the registry in line with its store, tell `on_loaded`, and look again every `poll_seconds` until `stopping` is set.

    With 0 the store is looked at once. One look at a time, in a thread; what it has begun, it ends.
    """
    await asyncio.to_thread(registry.load)
    try:
        on_loaded(registry)
    except Exception:
        logger.exception("the models are loaded, but it could not be announced")
    while poll_seconds and not await _is_set_within(stopping, poll_seconds):
        await asyncio.to_thread(registry.load)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
