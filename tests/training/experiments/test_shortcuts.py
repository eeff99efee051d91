"""Verdicts of the experiment `shortcuts`."""

from pathlib import Path

import pytest
from laboratories import group
from stated import stated

from training.experiments.shortcuts_verdicts import verdicts

NAMES = ("plain20", "resnet20", "resnet20-b", "resnet20-c", "preresnet20")


@pytest.mark.parametrize(
    ("errors", "shown"),
    [
        (((0.2, 0.2), (0.1, 0.1), (0.1, 0.092), (0.095, 0.1), (0.08, 0.08)), [True, True, True]),
        (((0.2, 0.2), (0.1, 0.1), (0.05, 0.05), (0.1, 0.1), (0.11, 0.09)), [True, False, None]),
        (((0.1, 0.1), (0.2, 0.2), (0.2, 0.2), (0.2, 0.21), (0.3, 0.3)), [False, True, False]),
        (((0.1, 0.1), (0.2, 0.2), (0.05, 0.05), (0.2, 0.2), (0.3, 0.3)), [False, False, False]),
        (((0.2, 0.2), (0.1, 0.1), (0.07, 0.13), (0.1, 0.1), (0.08, 0.3)), [None, None, None]),
        (((0.9, 0.9),) * 5, [None, None, None]),
    ],
    ids=[
        "as in the paper",
        "large gain",
        "none is best",
        "one is better",
        "seeds disagree",
        "chance",
    ],
)
def test_verdicts_follow_the_test_errors(
    tmp_path: Path, errors: tuple, shown: list[bool | None]
) -> None:
    groups = [group(tmp_path, name, *values) for name, values in zip(NAMES, errors, strict=True)]
    assert [verdict.shown for verdict in verdicts(*groups)] == shown


def test_gains_are_stated_with_their_sign(tmp_path: Path) -> None:
    errors = (0.2, 0.1, 0.05, 0.12, 0.07)
    groups = [group(tmp_path, name, error) for name, error in zip(NAMES, errors, strict=True)]
    any_helps, projections, preactivation = (verdict.text for verdict in verdicts(*groups))
    assert stated(any_helps) == (
        "plain20 +10.00 resnet20 +15.00 resnet20 +8.00 resnet20 +13.00 preresnet20"
    )
    assert all(f"{name}'s" in any_helps for name in NAMES)
    assert stated(projections) == "+5.00 -2.00 1"
    assert stated(preactivation) == "preresnet20 +3.00 resnet20 1 110"
