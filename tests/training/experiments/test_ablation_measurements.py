"""What was measured under lesions, and its means and deviations."""

from dataclasses import replace

import numpy as np
import pytest

from training.experiments.ablation_measurements import AblationResults

NETWORK = AblationResults(
    architecture="resnet10",
    blocks=["layer1.0", "layer2.0"],
    movable=[0],
    alone=np.array([[0.2, 0.3, 0.6]]),
    many=np.array([[[0.3, 0.5]]]),
    swaps=[],
    gradients=np.array([[[1.0], [1.0], [1.0]]]),
)


def test_orders_are_grouped_by_tau_and_the_trained_one_is_last() -> None:
    """Orders of one tau stay together, whatever their number; those that came out as trained are left out."""
    orders = [
        {"seed": 0, "swaps": 1, "tau": tau, "error": error}
        for tau, error in ((0.8, 0.6), (1.0, 0.2), (0.5, 0.7), (0.8, 0.4))
    ]
    far, near, trained = replace(NETWORK, swaps=orders).by_tau()
    assert far == (0.5, 0.7, None)
    assert near == pytest.approx((0.8, 0.5, 0.02**0.5))
    assert trained == pytest.approx((1.0, 0.2, 0.0))
    many = [order | {"tau": number / 40} for number in range(40) for order in orders[:1]]
    taus = [tau for tau, *_ in replace(NETWORK, swaps=many).by_tau()]
    assert len(taus) == 9
    assert taus == sorted(taus)


def test_deviations_are_the_sample_s_and_unknown_of_one_draw() -> None:
    """The whole network has no draws: it deviates by its seeds alone."""
    assert NETWORK.growth_deviations == pytest.approx([0.0, 0.02**0.5])
    assert replace(NETWORK, many=np.array([[[0.3]]])).growth_deviations == [0.0, None]
    two = replace(
        NETWORK,
        alone=np.array([[0.2, 0.3, 0.6], [0.4, 0.5, 0.6]]),
        many=np.array([[[0.3]], [[0.5]]]),
    )
    assert two.growth_deviations == pytest.approx([0.02**0.5, 0.02**0.5])
