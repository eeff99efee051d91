"""When the reconciler has something to do although nothing changed in the store."""

import math
import time
from typing import Final

from service.versions.load_failure import RETRY_SECONDS, LoadFailure
from service.versions.registry import Registry
from service.versions.served_model import ServedModel

STARTUP_TRIAL_SECONDS: Final = 60.0
"""Trials that take longer no longer keep a new replica from being ready with its other models."""
MIN_WAIT_SECONDS: Final = 1.0
"""An unreadable store may keep the start from ending, and is then not read without a pause."""


def seconds_until_due(registry: Registry) -> float | None:
    """Time until a reconciliation is needed although nothing changed in the store.

    A failed version is tried again, or the start no longer waits for trials. None if neither will
    happen.
    """
    now, models = time.monotonic(), registry.models.values()
    waits = [max(RETRY_SECONDS, at - now) for model in models for at in model.retry_at.values()]
    if not registry.loaded and any(model.on_trial for model in models):
        rest = registry.created_at + STARTUP_TRIAL_SECONDS - now
        waits.append(max(MIN_WAIT_SECONDS, rest))
    return min(waits, default=None)


def waits_for_trials(registry: Registry) -> bool:
    """Whether the start still waits for versions on trial that nothing serves in place of."""
    return time.monotonic() < registry.created_at + STARTUP_TRIAL_SECONDS and any(
        model.on_trial and model.desired and len(model.serving) < model.desired.selection.count
        for model in registry.models.values()
    )


def any_due(model: ServedModel) -> bool:
    """Whether it is time to try a failed version again."""
    return min(model.retry_at.values(), default=math.inf) <= time.monotonic()


def failure_not_due(model: ServedModel, number: int) -> LoadFailure | None:
    """Why a version failed, unless it is time to try it again."""
    if number not in model.errors:
        return None
    if number not in model.retry_at:
        return LoadFailure(model.errors[number])
    wait = model.retry_at[number] - time.monotonic()
    return LoadFailure(model.errors[number], retry_seconds=wait) if wait > 0 else None
