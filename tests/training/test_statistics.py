"""Figures of several seeds, and how they are said."""

import pytest

from training.statistics import SeedValues, seeds_of


def test_a_single_seed_has_no_deviation() -> None:
    """What can not be known is not written as zero."""
    assert SeedValues([0.25]).deviation is None
    assert SeedValues([0.25]).points == "25.00 points"
    assert SeedValues([0.1, 0.3]).deviation == pytest.approx(0.1414, abs=1e-4)
    assert SeedValues([-0.1, -0.3]).points == "20.00 ± 14.14 points"
    assert SeedValues([-0.1, -0.3]).signed == "-20.00 ± 14.14"


def test_differences_are_taken_seed_by_seed() -> None:
    """Twins share a seed, so what the seeds have in common falls out."""
    difference = SeedValues([0.5, 0.7]) - SeedValues([0.4, 0.6])
    assert difference.values == pytest.approx([0.1, 0.1])
    with pytest.raises(ValueError, match="zip"):
        SeedValues([0.5, 0.7]) - SeedValues([0.4])


@pytest.mark.parametrize(
    ("values", "agreed"),
    [((0.1, 0.2), True), ((-0.1, 0.0), False), ((0.1, -0.1), None), ((0.1,), True)],
)
def test_seeds_agree_or_the_figures_can_not_tell(
    values: tuple[float, ...], *, agreed: bool | None
) -> None:
    """One seed above zero and one below decide nothing."""
    assert SeedValues(values).agree() is agreed


@pytest.mark.parametrize(
    ("values", "decided"),
    [
        ((0.3, 0.4), True),
        ((0.3, 0.1), None),
        ((0.1,), None),
        ((-0.3, -0.4), False),
        ((float("nan"), 0.3), None),
    ],
)
def test_within_the_margin_nothing_is_decided(
    values: tuple[float, ...], *, decided: bool | None
) -> None:
    """A difference counts where it is larger than what is not worth telling; what is not a number decides nothing."""
    assert SeedValues(values).agree(margin=0.2) is decided


def test_one_seed_is_said_to_be_one() -> None:
    """A single seed always agrees with itself, so sentences say how many there were."""
    assert [seeds_of(1), seeds_of(3)] == ["one seed", "3 seeds"]
