"""Values of several seeds."""

import pytest

from training.statistics import SeedValues, join_values, seed_count_text


def test_a_single_seed_has_no_deviation() -> None:
    assert SeedValues([0.25]).deviation is None
    assert SeedValues([0.25]).absolute_points == "25.00 points"


def test_the_deviation_is_the_sample_deviation() -> None:
    assert SeedValues([0.1, 0.3]).deviation == pytest.approx(0.1414, abs=1e-4)
    assert SeedValues([-0.1, -0.3]).absolute_points == "20.00 ± 14.14 points"
    assert SeedValues([-0.1, -0.3]).signed_points == "-20.00 ± 14.14"
    assert SeedValues([0.1]).signed_points == "+10.00"


def test_differences_are_taken_seed_by_seed() -> None:
    difference = SeedValues([0.5, 0.7]) - SeedValues([0.4, 0.6])
    assert difference.values == pytest.approx([0.1, 0.1])
    with pytest.raises(ValueError, match="zip"):
        SeedValues([0.5, 0.7]) - SeedValues([0.4])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.1, 0.2), True),
        ((-0.1, 0.0), False),
        ((0.1, 0.0), None),
        ((0.1, -0.1), None),
        ((0.1,), True),
        ((0.0, 0.0), None),
    ],
)
def test_all_seeds_have_to_agree(values: tuple[float, ...], *, expected: bool | None) -> None:
    assert SeedValues(values).is_positive() is expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.3, 0.4), True),
        ((0.3, 0.2), None),
        ((0.3, 0.1), None),
        ((0.1,), None),
        ((-0.3, -0.2), False),
        ((float("nan"), 0.3), None),
    ],
)
def test_differences_within_the_margin_decide_nothing(
    values: tuple[float, ...], *, expected: bool | None
) -> None:
    assert SeedValues(values).is_positive(margin=0.2) is expected


def test_numbers_of_seeds_are_written_out() -> None:
    assert [seed_count_text(1), seed_count_text(3)] == ["one seed", "3 seeds"]
    assert join_values((1, "a")) == "1, a"
