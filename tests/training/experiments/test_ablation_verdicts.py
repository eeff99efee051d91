"""What is said of lesions: shown, not shown, and can not be told, for each part of the claim."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from training.experiments.ablation_measurements import AblationResults
from training.experiments.ablation_verdicts import verdicts

BLOCKS = ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2"]
MOVABLE = [0, 1, 3, 4]
CHANCE = 0.9


def lesions(
    name: str,
    whole: float,
    rises: Sequence[float],
    growth: Sequence[float],
    swapped: Sequence[float],
) -> AblationResults:
    """One seed of a network of five blocks, the third of which changes the shape; `swapped` are errors by falling tau."""
    orders = [
        {"seed": 0, "swaps": n, "tau": 1 - n / 10, "error": error}
        for n, error in enumerate(swapped, start=1)
    ]
    return AblationResults(
        architecture=name,
        blocks=BLOCKS,
        movable=MOVABLE,
        alone=np.array([[whole, *(whole + rise for rise in rises)]]),
        many=np.array([[[error, error] for error in growth]]),
        swaps=orders,
        gradients=np.array([[[norm, norm] for norm in (32.0, 16.0, 8.0, 4.0, 2.0, 1.0)]]),
    )


PLAIN = lesions("plain10", 0.3, [0.5, 0.6, 0.5, 0.4, 0.5], [0.8, 0.9, 0.9, 0.9], [0.9] * 8)
RESIDUAL = lesions(
    "resnet10",
    0.2,
    [0.05, 0.1, 0.3, 0.1, 0.1],
    [0.35, 0.5, 0.65, 0.8],
    [0.2, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8],
)


def both_seeds(first: AblationResults, second: AblationResults) -> AblationResults:
    """Two networks of one seed as one of two."""
    return replace(
        first,
        alone=np.concatenate([first.alone, second.alone]),
        many=np.concatenate([first.many, second.many]),
        swaps=[*first.swaps, *(order | {"seed": 1} for order in second.swaps)],
        gradients=np.concatenate([first.gradients, second.gradients]),
    )


def words(plain: AblationResults, residual: AblationResults) -> dict[str, str]:
    """The verdicts by the first word of their sentences."""
    return {verdict.text.split()[0]: verdict.word for verdict in verdicts(plain, residual, CHANCE)}


def with_rises(network: AblationResults, *rises: float) -> AblationResults:
    """The same network, with other errors without each block."""
    whole = network.alone[:, :1]
    return replace(network, alone=np.concatenate([whole, whole + np.array([rises])], axis=1))


def with_errors(network: AblationResults, *errors: float) -> AblationResults:
    """The same network, with other errors of swapped orders."""
    return replace(
        network,
        swaps=[
            order | {"error": error} for order, error in zip(network.swaps, errors, strict=True)
        ],
    )


def with_norms(network: AblationResults, *norms: float) -> AblationResults:
    """The same network, with other gradients by length."""
    return replace(network, gradients=np.array([[[norm, norm] for norm in norms]]))


def test_figures_like_the_paper_s_bear_the_claim_out() -> None:
    """All five parts; each sentence says how many seeds it stands on."""
    assert words(PLAIN, RESIDUAL) == dict.fromkeys(
        ("Deleting", "Blocks", "Smoothly", "The", "Short"), "shown"
    )
    assert all("one seed" in verdict.text for verdict in verdicts(PLAIN, RESIDUAL, CHANCE))
    assert all(
        "2 seeds" in v.text
        for v in verdicts(both_seeds(PLAIN, PLAIN), both_seeds(RESIDUAL, RESIDUAL), CHANCE)
    )


@pytest.mark.parametrize(
    ("rises", "word"),
    [
        ((0.05, 0.05, 0.0, 0.05, 0.05), "not shown"),
        ((0.09, 0.09, 0.0, 0.09, 0.09), "can not be told"),
        ((0.13, 0.13, 0.0, 0.13, 0.13), "shown"),
    ],
)
def test_one_block_deleted_is_judged_by_the_medians(rises: tuple[float, ...], word: str) -> None:
    """The plain network's rise is smaller, about the residual one's 10 points, and larger."""
    assert words(with_rises(PLAIN, *rises), RESIDUAL)["Deleting"] == word


def test_a_network_near_chance_has_no_room_to_get_worse() -> None:
    """Its rises are about 0, which is no merit of its own: nothing can be told of it, and the sentence says why."""
    lost = lesions("plain10", 0.88, [0.02, 0.0, 0.01, 0.02, 0.0], [0.9, 0.9, 0.9, 0.9], [0.9] * 8)
    verdict = verdicts(lost, RESIDUAL, CHANCE)[0]
    assert verdict.shown is None
    assert verdict.text.endswith(
        "plain10 is within 10.0 points of chance as it is: it has no room to get worse."
    )
    one_of_two = both_seeds(PLAIN, lost)
    assert words(one_of_two, both_seeds(RESIDUAL, RESIDUAL))["Deleting"] == "can not be told"
    other = lesions(
        "resnet10", 0.85, [0.0, 0.05, 0.01, 0.0, 0.0], [0.86, 0.87, 0.88, 0.9], [0.85] * 8
    )
    assert set(words(PLAIN, other).values()) == {"can not be told", "shown"}
    assert words(PLAIN, other)["Short"] == "shown"  # of the gradient, not of errors


@pytest.mark.parametrize(
    ("rise", "word"), [(0.3, "shown"), (0.09, "can not be told"), (0.0, "not shown")]
)
def test_blocks_that_change_the_shape_are_held_against_the_others(rise: float, word: str) -> None:
    """The others bring 8 points in the mean."""
    assert words(PLAIN, with_rises(RESIDUAL, 0.05, 0.1, rise, 0.09, 0.08))["Blocks"] == word


@pytest.mark.parametrize(
    ("growth", "word"),
    [
        ((0.35, 0.5, 0.65, 0.8), "shown"),
        ((0.25, 0.75, 0.8, 0.8), "not shown"),
        ((0.2, 0.25, 0.2, 0.21), "can not be told"),
    ],
)
def test_growth_is_smooth_where_no_block_brings_it_all(
    growth: tuple[float, ...], word: str
) -> None:
    """A third of the whole rise at most; where all the blocks together bring no rise there is nothing to be smooth."""
    assert (
        words(PLAIN, replace(RESIDUAL, many=np.array([[[error] for error in growth]])))["Smoothly"]
        == word
    )


@pytest.mark.parametrize(
    ("errors", "word"),
    [
        ((0.2, 0.3, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), "shown"),
        ((0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.3, 0.2), "not shown"),
        ((0.4, 0.3, 0.5, 0.4, 0.5, 0.3, 0.4, 0.41), "can not be told"),
        ((0.4,) * 8, "can not be told"),
    ],
)
def test_orders_are_judged_by_their_correlation(errors: tuple[float, ...], word: str) -> None:
    """Falling with tau, rising, hardly at all, and the same everywhere."""
    assert words(PLAIN, with_errors(RESIDUAL, *errors))["The"] == word


def test_correlations_are_taken_seed_by_seed() -> None:
    """Two seeds that say the opposite are not pooled; and two orders can not say anything."""
    turned = with_errors(RESIDUAL, *(order["error"] for order in reversed(RESIDUAL.swaps)))
    plain = both_seeds(PLAIN, PLAIN)
    assert words(plain, both_seeds(RESIDUAL, turned))["The"] == "can not be told"
    assert words(plain, both_seeds(RESIDUAL, RESIDUAL))["The"] == "shown"
    assert words(PLAIN, replace(RESIDUAL, swaps=RESIDUAL.swaps[:2]))["The"] == "can not be told"


@pytest.mark.parametrize(
    ("norms", "word"),
    [
        ((32, 16, 8, 4, 2, 1), "shown"),
        ((1, 1, 1, 1, 1, 1), "can not be told"),
        ((5, 5, 5, 4.9, 4.9, 4.8), "can not be told"),
        ((1, 2, 4, 8, 16, 32), "not shown"),
    ],
)
def test_paths_are_short_where_the_gradient_s_mean_is(norms: tuple[float, ...], word: str) -> None:
    """Norms that fall by length, that stay, that fall by next to nothing, and that rise."""
    assert words(PLAIN, with_norms(RESIDUAL, *norms))["Short"] == word


def test_a_network_without_two_blocks_to_swap_says_nothing_of_orders() -> None:
    """There is only the trained order."""
    unmoved = replace(RESIDUAL, swaps=[order | {"tau": 1.0} for order in RESIDUAL.swaps])
    assert "The" not in words(PLAIN, unmoved)
