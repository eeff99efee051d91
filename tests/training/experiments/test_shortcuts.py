"""Shortcuts: five networks beside each other, and what may be said of them."""

from pathlib import Path

import pytest
from laboratories import group

from training.experiments.shortcuts import verdicts


@pytest.mark.parametrize(
    ("errors", "shown"),
    [
        (((0.2, 0.2), (0.1, 0.1), (0.1, 0.092), (0.095, 0.1), (0.08, 0.08)), [True, True, True]),
        (((0.2, 0.2), (0.1, 0.1), (0.05, 0.05), (0.1, 0.1), (0.11, 0.09)), [True, False, None]),
        (((0.1, 0.1), (0.2, 0.2), (0.2, 0.2), (0.2, 0.2), (0.3, 0.3)), [False, True, False]),
        (((0.1, 0.1), (0.2, 0.2), (0.05, 0.05), (0.2, 0.2), (0.3, 0.3)), [False, False, False]),
        (((0.2, 0.2), (0.1, 0.1), (0.07, 0.13), (0.1, 0.1), (0.08, 0.3)), [None, None, None]),
    ],
)
def test_verdicts_follow_the_test_errors(
    tmp_path: Path, errors: tuple, shown: list[bool | None]
) -> None:
    """As in the paper; projections that gain much; none is best; one is better than none; seeds that do not agree."""
    names = ("plain20", "resnet20", "resnet20-b", "resnet20-c", "preresnet20")
    groups = [group(tmp_path, name, *values) for name, values in zip(names, errors, strict=True)]
    assert [verdict.shown for verdict in verdicts(*groups)] == shown
