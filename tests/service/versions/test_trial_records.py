"""When a version that failed is tried again by itself."""

import math
import time

import pytest

from service.versions.load_failure import Cause, LoadFailure
from service.versions.trial_records import (
    MEMORY_CHECK_SECONDS,
    MIN_MEMORY_GROWTH,
    OVERLOAD_PAUSES,
    TrialLimits,
    TrialRecord,
)

LIMIT = 1000
RETRIES = len(OVERLOAD_PAUSES)


def record(
    cause: Cause, attempts: int = 1, *, age: float = 0.0, memory_setting: int | None = None
) -> TrialRecord:
    return TrialRecord(
        model="m",
        number=1,
        failure=LoadFailure("failed", cause, LIMIT if cause == "memory" else None),
        promotions=2,
        attempts=attempts,
        ended_at=time.time() - age,
        limits=TrialLimits(timeout_seconds=60, memory_bytes=memory_setting),
    )


@pytest.mark.parametrize(
    ("memory_bytes", "expected"),
    [
        (LIMIT // 2, MEMORY_CHECK_SECONDS),
        (int(LIMIT * MIN_MEMORY_GROWTH) - 1, MEMORY_CHECK_SECONDS),
        (int(LIMIT * MIN_MEMORY_GROWTH), 0),
        (None, MEMORY_CHECK_SECONDS),
    ],
)
def test_passing_shortage_of_memory_is_not_final(memory_bytes: int | None, expected: float) -> None:
    """Without a setting, the limit is what was available at that moment."""
    assert record("memory").seconds_until_retry(memory_bytes) == expected


def test_set_limit_of_memory_is_final() -> None:
    """Only another setting can help."""
    failed = record("memory", memory_setting=LIMIT)
    assert failed.seconds_until_retry(10 * LIMIT) is None
    assert failed.when_retried() == ""


@pytest.mark.parametrize("cause", ["overload", "shortage"])
@pytest.mark.parametrize(
    ("attempts", "age", "expected"),
    [
        *((number + 1, 0.0, pause) for number, pause in enumerate(OVERLOAD_PAUSES)),
        (1, OVERLOAD_PAUSES[0] - 1, 1),
        (1, OVERLOAD_PAUSES[0], 0),
        (1, -1e6, OVERLOAD_PAUSES[0]),
        (RETRIES, OVERLOAD_PAUSES[-1], 0),
        (RETRIES + 1, 1e9, math.inf),
    ],
)
def test_failure_of_a_busy_host_is_retried_a_few_times(
    cause: Cause, attempts: int, age: float, expected: float
) -> None:
    """The pauses grow, whatever the clock does. The reason has the number of the trial."""
    failed = record(cause, attempts, age=age)
    wait = failed.seconds_until_retry(LIMIT)
    assert (math.inf if wait is None else wait) == pytest.approx(expected, abs=0.5)
    assert str(attempts) in failed.when_retried()
    assert sorted(OVERLOAD_PAUSES) == list(OVERLOAD_PAUSES)


@pytest.mark.parametrize("cause", ["version", "crash"])
def test_failure_of_the_version_is_final(cause: Cause) -> None:
    assert record(cause, age=1e9).seconds_until_retry(10 * LIMIT) is None


def test_promotion_or_other_limits_end_a_failure() -> None:
    """It holds only for the promotions and limits of its trial."""
    failed = record("crash")
    assert failed.holds_for(2, failed.limits)
    assert not failed.holds_for(3, failed.limits)
    assert not failed.holds_for(2, TrialLimits(timeout_seconds=61, memory_bytes=None))
    assert not failed.holds_for(2, TrialLimits(timeout_seconds=60, memory_bytes=LIMIT))
