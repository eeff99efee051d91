"""Verdicts of the experiment `ablation`: each part is shown, not shown or undecided."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from stated import stated

from training.experiments.ablation_measurements import AblationResults
from training.experiments.ablation_verdicts import verdicts

BLOCKS = ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2"]
SHAPE_KEEPING = [0, 1, 3, 4]
CHANCE = 0.9
KEYWORDS = {
    "single": "Deleting one block",
    "shape": "change the shape matter",
    "smooth": "smoothly",
    "order": "Spearman",
    "paths": "Short paths",
}


def results(
    name: str,
    whole: float,
    rises: Sequence[float],
    growth: Sequence[float],
    swapped: Sequence[float],
) -> AblationResults:
    """One seed of a network of five blocks; the third changes the shape.

    `swapped` holds errors by falling tau.
    """
    swaps = [
        {"seed": 0, "swaps": n, "tau": 1 - n / 10, "error": error}
        for n, error in enumerate(swapped, start=1)
    ]
    return AblationResults(
        architecture=name,
        blocks=BLOCKS,
        shape_keeping=SHAPE_KEEPING,
        single=np.array([[whole, *(whole + rise for rise in rises)]]),
        many=np.array([[[error, error] for error in growth]]),
        swaps=swaps,
        gradients=np.array([[[norm, norm] for norm in (32.0, 16.0, 8.0, 4.0, 2.0, 1.0)]]),
    )


PLAIN = results("plain10", 0.3, [0.5, 0.6, 0.5, 0.4, 0.5], [0.8, 0.9, 0.9, 0.9], [0.9] * 8)
RESIDUAL = results(
    "resnet10",
    0.2,
    [0.05, 0.1, 0.3, 0.1, 0.1],
    [0.35, 0.5, 0.65, 0.8],
    [0.2, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8],
)


def two_seeds(first: AblationResults, second: AblationResults) -> AblationResults:
    return replace(
        first,
        single=np.concatenate([first.single, second.single]),
        many=np.concatenate([first.many, second.many]),
        swaps=[*first.swaps, *(order | {"seed": 1} for order in second.swaps)],
        gradients=np.concatenate([first.gradients, second.gradients]),
    )


def decisions(plain: AblationResults, residual: AblationResults) -> dict[str, bool | None]:
    """The verdicts by their keyword; a keyword without a verdict is missing."""
    return {
        name: verdict.shown
        for verdict in verdicts(plain, residual, CHANCE)
        for name, words in KEYWORDS.items()
        if words in verdict.text
    }


def with_rises(network: AblationResults, *rises: float) -> AblationResults:
    whole = network.single[:, :1]
    return replace(network, single=np.concatenate([whole, whole + np.array([rises])], axis=1))


def with_errors(network: AblationResults, *errors: float) -> AblationResults:
    swaps = [order | {"error": error} for order, error in zip(network.swaps, errors, strict=True)]
    return replace(network, swaps=swaps)


def with_norms(network: AblationResults, *norms: float) -> AblationResults:
    return replace(network, gradients=np.array([[[norm, norm] for norm in norms]]))


def test_results_like_the_papers_show_the_claim() -> None:
    assert decisions(PLAIN, RESIDUAL) == dict.fromkeys(KEYWORDS, True)
    assert all("one seed" in verdict.text for verdict in verdicts(PLAIN, RESIDUAL, CHANCE))


def test_sentences_state_errors_rises_and_path_lengths() -> None:
    """Two seeds with equal measurements."""
    residual = with_rises(RESIDUAL, 0.05, 0.1, 0.3, 0.15, 0.1)
    residual = replace(residual, many=np.array([[[0.4], [0.5], [0.45], [0.8]]]))
    plain = with_errors(PLAIN, 0.85, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.95)
    both = verdicts(two_seeds(plain, plain), two_seeds(residual, residual), CHANCE)
    assert [stated(verdict.text) for verdict in both] == [
        "resnet10 10.0 15.0 layer2.1 plain10 50.0 80.0 90.0 40.0 2 2.0",
        "layer2.0 resnet10 30.0 10.0 2",
        "resnet10 20.0 80.0 4 3 4 35.0 2 plain10 30.0 80.0",
        "resnet10 -1.00 -1.00 8 2 0.76 0.90 20.0 0.20 80.0 plain10 85.0 0.90",
        "95 resnet10 0 5 5 90 0 3 81.2 2.5 1.7 2 2 10",
    ]


@pytest.mark.parametrize(("rise", "shown"), [(0.05, False), (0.09, None), (0.13, True)])
def test_one_deleted_block_is_judged_by_the_median(rise: float, *, shown: bool | None) -> None:
    """The residual network's median is 10 points, with a margin of 2."""
    assert decisions(with_rises(PLAIN, rise, rise, 0.0, rise, rise), RESIDUAL)["single"] is shown


def test_networks_near_chance_decide_nothing() -> None:
    lost = results("plain10", 0.88, [0.02, 0.0, 0.01, 0.02, 0.0], [0.9] * 4, [0.9] * 8)
    verdict = verdicts(lost, RESIDUAL, CHANCE)[0]
    assert verdict.shown is None
    assert "plain10 is already within 10.0 points of chance" in verdict.text
    one_of_two = two_seeds(PLAIN, lost)
    assert decisions(one_of_two, two_seeds(RESIDUAL, RESIDUAL))["single"] is None
    residual = results(
        "resnet10", 0.85, [0.0, 0.05, 0.01, 0.0, 0.0], [0.86, 0.87, 0.88, 0.9], [0.85] * 8
    )
    assert decisions(PLAIN, residual) == dict.fromkeys(KEYWORDS, None) | {"paths": True}


@pytest.mark.parametrize(("rise", "shown"), [(0.3, True), (0.09, None), (0.0, False)])
def test_shape_changing_blocks_are_compared_with_the_others(
    rise: float, *, shown: bool | None
) -> None:
    """The other blocks raise the error by 8 points on average."""
    assert decisions(PLAIN, with_rises(RESIDUAL, 0.05, 0.1, rise, 0.09, 0.08))["shape"] is shown


@pytest.mark.parametrize(
    ("growth", "shown"),
    [
        ((0.35, 0.5, 0.65, 0.8), True),
        ((0.25, 0.75, 0.8, 0.8), False),
        ((0.39, 0.5, 0.65, 0.8), True),
        ((0.41, 0.5, 0.65, 0.8), False),
        ((0.2, 0.25, 0.2, 0.21), None),
    ],
)
def test_growth_is_smooth_if_no_step_exceeds_a_third_of_the_rise(
    growth: tuple[float, ...], *, shown: bool | None
) -> None:
    """Without a rise of at least 2 points, nothing is decided."""
    residual = replace(RESIDUAL, many=np.array([[[error] for error in growth]]))
    assert decisions(PLAIN, residual)["smooth"] is shown


@pytest.mark.parametrize(
    ("errors", "shown"),
    [
        ((0.2, 0.3, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), True),
        ((0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.3, 0.2), False),
        ((0.4, 0.3, 0.5, 0.4, 0.5, 0.3, 0.4, 0.41), None),
        ((0.4,) * 8, None),
    ],
)
def test_orders_are_judged_by_rank_correlation(
    errors: tuple[float, ...], *, shown: bool | None
) -> None:
    assert decisions(PLAIN, with_errors(RESIDUAL, *errors))["order"] is shown


def test_correlations_are_computed_per_seed() -> None:
    """Seeds that disagree decide nothing, and so do two orders."""
    reversed_errors = [order["error"] for order in reversed(RESIDUAL.swaps)]
    opposite = with_errors(RESIDUAL, *reversed_errors)
    plain = two_seeds(PLAIN, PLAIN)
    assert decisions(plain, two_seeds(RESIDUAL, opposite))["order"] is None
    assert decisions(plain, two_seeds(RESIDUAL, RESIDUAL))["order"] is True
    assert decisions(PLAIN, replace(RESIDUAL, swaps=RESIDUAL.swaps[:2]))["order"] is None


@pytest.mark.parametrize(
    ("norms", "shown"),
    [
        ((32, 16, 8, 4, 2, 1), True),
        ((1, 1, 1, 1, 1, 1), None),
        ((5, 5, 5, 4.9, 4.9, 4.8), None),
        ((1, 2, 4, 8, 16, 32), False),
    ],
)
def test_short_paths_need_a_clearly_shorter_mean_length(
    norms: tuple[float, ...], *, shown: bool | None
) -> None:
    assert decisions(PLAIN, with_norms(RESIDUAL, *norms))["paths"] is shown


def test_without_moved_blocks_there_is_no_verdict_on_orders() -> None:
    unmoved = replace(RESIDUAL, swaps=[order | {"tau": 1.0} for order in RESIDUAL.swaps])
    assert "order" not in decisions(PLAIN, unmoved)


def test_an_undefined_correlation_is_stated_as_such() -> None:
    """Equal errors have no ranks; the sentence has no `nan`."""
    texts = [verdict.text for verdict in verdicts(PLAIN, with_errors(RESIDUAL, *(0.4,) * 8), 0.9)]
    assert not [text for text in texts if "nan" in text.split()]
