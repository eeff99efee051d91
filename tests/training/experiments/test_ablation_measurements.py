"""Means and deviations of the ablation measurements."""

from dataclasses import replace

import numpy as np
import pytest

from training.experiments.ablation_measurements import AblationResults

RESULTS = AblationResults(
    architecture="resnet10",
    blocks=["layer1.0", "layer2.0"],
    shape_keeping=[0],
    single=np.array([[0.2, 0.3, 0.6]]),
    many=np.array([[[0.3, 0.5]]]),
    swaps=[],
    gradients=np.array([[[1.0], [1.0], [1.0]]]),
)


def test_rises_are_errors_above_the_whole_networks() -> None:
    assert RESULTS.error_rises.tolist() == [pytest.approx([0.1, 0.4])]
    assert RESULTS.shape_changing == [1]
    assert RESULTS.errors_by_deleted == pytest.approx([0.2, 0.4])


def test_orders_of_one_tau_form_one_point_and_the_trained_order_is_last() -> None:
    swaps = [
        {"seed": 0, "swaps": 1, "tau": tau, "error": error}
        for tau, error in ((0.8, 0.6), (1.0, 0.2), (0.5, 0.7), (0.8, 0.4))
    ]
    far, near, trained = replace(RESULTS, swaps=swaps).errors_by_tau()
    assert far == (0.5, 0.7, None)
    assert near == pytest.approx((0.8, 0.5, 0.02**0.5))
    assert trained == pytest.approx((1.0, 0.2, 0.0))


def test_many_orders_form_eight_points() -> None:
    swaps = [{"seed": 0, "swaps": 1, "tau": n / 40, "error": 0.6} for n in range(40)]
    taus = [tau for tau, *_ in replace(RESULTS, swaps=swaps).errors_by_tau()]
    assert len(taus) == 9
    assert taus == sorted(taus)


def test_a_single_draw_has_no_deviation() -> None:
    assert RESULTS.deviations_by_deleted == pytest.approx([0.0, 0.02**0.5])
    assert replace(RESULTS, many=np.array([[[0.3]]])).deviations_by_deleted == [0.0, None]


def test_the_whole_network_deviates_over_the_seeds() -> None:
    two_seeds = replace(
        RESULTS,
        single=np.array([[0.2, 0.3, 0.6], [0.4, 0.5, 0.6]]),
        many=np.array([[[0.3]], [[0.5]]]),
    )
    assert two_seeds.deviations_by_deleted == pytest.approx([0.02**0.5, 0.02**0.5])
