"""Reconciles a registry at startup, after each trial and at intervals."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from service.versions.due import seconds_until_due
from service.versions.reconciler import reconcile
from service.versions.registry import Registry

logger = logging.getLogger(__name__)


async def watch(
    registry: Registry,
    poll_seconds: float,
    stopping: asyncio.Event,
    on_loaded: Callable[[Registry], None] = lambda _: None,
) -> None:
    """Follow the store as `_follow` does. If that fails, the registry is no longer live."""
    # A thread of its own, so that reconciliations go on if the host has no more threads.
    thread = ThreadPoolExecutor(1, thread_name_prefix="watcher")
    try:
        await _follow(registry, poll_seconds, stopping, on_loaded, thread)
    except Exception:
        logger.exception("model store no longer watched")
        registry.watcher_failed = True
    finally:
        thread.shutdown(wait=False)


async def _follow(
    registry: Registry,
    poll_seconds: float,
    stopping: asyncio.Event,
    on_loaded: Callable[[Registry], None],
    thread: ThreadPoolExecutor,
) -> None:
    """Reconcile now, after each trial and every `poll_seconds`, until `stopping` is set.

    Whatever `poll_seconds` is, also reconcile when `seconds_until_due` is over. With 0 seconds and
    without trials, end after the first. A reconciliation that has begun is completed.

    Args:
        registry: What to reconcile with its store.
        poll_seconds: Time between reconciliations.
        stopping: Ends the loop.
        on_loaded: Called once the models are loaded, or cannot be because of the store.
        thread: Runs the reconciliations.
    """
    wake = asyncio.Event()
    if registry.trials:
        wake_soon = partial(asyncio.get_running_loop().call_soon_threadsafe, wake.set)
        registry.trials.on_end = wake_soon
    loop, announced = asyncio.get_running_loop(), False
    await loop.run_in_executor(thread, reconcile, registry)
    while True:
        if not announced and not (registry.trials and registry.starting):
            announced = True
            _announce(registry, on_loaded)
        if not poll_seconds and not registry.trials:
            return
        await _wait_for_either(stopping, wake, _wait_seconds(registry, poll_seconds))
        if stopping.is_set():
            return
        wake.clear()
        await loop.run_in_executor(thread, reconcile, registry)


def _wait_seconds(registry: Registry, poll_seconds: float) -> float | None:
    due = seconds_until_due(registry) if registry.trials else None
    if not poll_seconds or due is None:
        return poll_seconds or due
    return min(poll_seconds, due)


def _announce(registry: Registry, on_loaded: Callable[[Registry], None]) -> None:
    try:
        on_loaded(registry)
    except Exception:
        logger.exception("startup announcement failed")


async def _wait_for_either(
    one: asyncio.Event, other: asyncio.Event, timeout_seconds: float | None
) -> None:
    waits = [asyncio.create_task(event.wait()) for event in (one, other)]
    await asyncio.wait(waits, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
