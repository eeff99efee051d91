"""The epoch whose weights are kept: the best on validation, the first of equal ones."""

import pytest

from training.steps.validation import is_better


def line(accuracy: float, loss: float) -> dict[str, float]:
    """Return the metrics of an epoch that decide."""
    return {"validation_top1": accuracy, "validation_loss": loss}


@pytest.mark.parametrize(
    ("select", "new", "kept", "expected"),
    [
        ("accuracy", line(0.9, 0.5), line(0.8, 0.1), True),
        ("accuracy", line(0.8, 0.1), line(0.9, 0.5), False),
        ("accuracy", line(0.9, 0.4), line(0.9, 0.5), True),
        ("accuracy", line(0.9, 0.5), line(0.9, 0.5), False),
        ("loss", line(0.8, 0.1), line(0.9, 0.5), True),
        ("loss", line(0.9, 0.5), line(0.8, 0.1), False),
        ("loss", line(0.9, 0.5), line(0.8, 0.5), True),
        ("loss", line(0.9, 0.5), line(0.9, 0.5), False),
        ("last", line(0.1, 9.0), line(0.9, 0.1), True),
    ],
)
def test_a_better_epoch_replaces_the_kept_one(
    select: str, new: dict[str, float], kept: dict[str, float], *, expected: bool
) -> None:
    """The other figure decides between epochs that are equal in the selected one."""
    assert is_better(new, [line(0.0, 99.0), kept], select) is expected  # type: ignore[arg-type]


def test_the_first_epoch_is_kept() -> None:
    """There is nothing to compare with."""
    assert is_better(line(0.0, 99.0), [], "accuracy")
