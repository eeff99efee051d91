"""The gate of retraining fails for a model that is worse than the previous version."""

from types import SimpleNamespace

import pytest

from training.gates import gate as gates
from training.gates.vs_previous_version import ClassComparison, PreviousComparison


@pytest.mark.parametrize(
    ("gained", "lost", "passed"), [(3, 9, True), (3, 12, False), (12, 3, True)]
)
def test_a_model_that_loses_more_than_chance_explains_fails(
    monkeypatch: pytest.MonkeyPatch, gained: int, lost: int, *, passed: bool
) -> None:
    """A model that gains passes."""
    comparison = PreviousComparison((ClassComparison("a", 99, 50, 50, 50),), gained, lost)
    monkeypatch.setattr(gates, "compare_with_previous", lambda *_: comparison)
    run = SimpleNamespace(has=lambda _: True)
    (check,) = gates._retraining_checks(run, None)  # type: ignore[arg-type]
    assert (check.check, check.passed) == ("not_worse", passed)
