"""The experiment `gradients`: norms by layer, the loss surface, and verdicts on them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from laboratories import interrupted_copy
from stated import stated
from torch import nn

from training.errors import InterruptedRunError
from training.experiments import gradients, gradients_measurements
from training.experiments.experiment_report import write_experiment_report
from training.experiments.gradients_figures import norms_table, surface_table
from training.experiments.gradients_measurements import (
    SURFACE_IMAGES,
    gradient_norms,
    measure_run_surface,
    measure_seed_norms,
    window_means,
)
from training.experiments.gradients_verdicts import verdicts
from training.experiments.laboratory import Laboratory, mean_loss
from training.experiments.loss_surface import (
    LOSS_CEILING,
    basin_share,
    count_minima,
    direction_pair,
    grid_coordinates,
    measure_surface,
    random_direction,
)
from training.experiments.sample_images import sample_training_images
from training.experiments.training_steps import predict_logits
from training.learning.networks import build_network


def test_filters_of_a_direction_have_the_norms_of_the_networks_filters() -> None:
    network = build_network("resnet20", 10)
    for parameter, direction in zip(
        network.parameters(), random_direction(network, 0), strict=True
    ):
        if parameter.ndim <= 1:
            assert not direction.any()
        else:
            own = parameter.detach().flatten(1).norm(dim=1)
            torch.testing.assert_close(direction.flatten(1).norm(dim=1), own)


def test_the_two_directions_are_independent() -> None:
    """They differ from each other and from those of the next seed, and are nearly orthogonal."""
    network = build_network("resnet20", 10)
    vectors = [
        torch.cat([entries.flatten() for entries in direction])
        for seed in (0, 1)
        for direction in direction_pair(network, seed)
    ]
    for position, vector in enumerate(vectors):
        for other in vectors[:position]:
            assert abs(nn.functional.cosine_similarity(vector, other, dim=0)) < 0.05


def test_the_centre_of_a_surface_is_the_networks_loss() -> None:
    """Measuring leaves the network as it was."""
    torch.manual_seed(0)
    network = build_network("plain20", 10).eval()
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 10
    loss = mean_loss(predict_logits(network, images), labels)
    progress: list[tuple[int, int]] = []
    losses = measure_surface(
        network,
        images,
        labels,
        grid_coordinates(3),
        0,
        lambda done, total: progress.append((done, total)),
    )
    assert losses[1][1] == pytest.approx(loss, rel=1e-6)
    assert progress == [(done, 9) for done in range(1, 10)]
    assert mean_loss(predict_logits(network, images), labels) == loss


def test_x_moves_along_the_first_direction_and_y_along_the_second() -> None:
    """A linear network without biases, whose surface is computed by hand."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
    images, labels = torch.randn(6, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    (first,), (second,) = direction_pair(network, 5)
    (weight,) = network.parameters()
    expected = [
        [
            mean_loss(images.flatten(1) @ (weight + x * first + y * second).T, labels)
            for x in (-1.0, 0.0, 1.0)
        ]
        for y in (-1.0, 0.0, 1.0)
    ]
    losses = measure_surface(network, images, labels, [-1.0, 0.0, 1.0], 5)
    assert losses == [pytest.approx(row, rel=1e-5) for row in expected]
    assert losses != [list(column) for column in zip(*losses, strict=True)]


def test_infinite_and_undefined_losses_become_the_ceiling() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
    images, labels = torch.full((1, 3, 2, 2), float("inf")), torch.tensor([0])
    assert measure_surface(network, images, labels, [1.0], 0) == [[LOSS_CEILING]]


def test_basin_and_minima_of_known_surfaces() -> None:
    """The basin ends at the centre's loss plus ln(10) / 2 = 1.15."""
    bowl = [[4.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 2.0, 4.0]]
    assert basin_share(bowl, 10) == pytest.approx(4 / 9)
    assert basin_share([[3.1, 3.2, 9], [9, 2.0, 9], [9, 9, 9]], 10) == pytest.approx(2 / 9)
    large = np.full((7, 7), 9.0)
    large[3, 2:5] = 1.0, 0.0, 1.2  # its centre is 0
    assert basin_share(large.tolist(), 10) == pytest.approx(2 / 49)
    assert count_minima(bowl) == 1
    assert count_minima([[0.0, 5.0, 1.0], [5.0, 5.0, 5.0], [5.0, 5.0, 5.0]]) == 2


def test_the_surface_table_states_centre_highest_basin_and_minima() -> None:
    losses = [[4.0, 1.0, 4.0], [1.0, 0.5, 1.0], [4.0, 2.0, 7.0]]
    (row,) = surface_table({"plain20": losses}, 10).rows
    assert list(row) == ["plain20", 0.5, 7.0, pytest.approx(4 / 9), 1]


def test_grid_coordinates_include_the_centre() -> None:
    assert grid_coordinates(5) == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_norms_are_those_of_each_3x3_convolution() -> None:
    network = build_network("resnet20-b", 10)
    network(torch.randn(4, 3, 8, 8)).sum().backward()
    norms = gradient_norms(network)
    assert len(norms) == 19
    for norm, name in ((norms[0], "conv1.weight"), (norms[-1], "layer3.2.conv2.weight")):
        assert norm == pytest.approx(network.get_parameter(name).grad.norm().item())


def test_windows_are_the_first_step_and_the_first_and_last_ten() -> None:
    norms = np.arange(1.0, 26)[None, :, None]  # the norm of a step is its number
    means = {window: float(values[0, 0]) for window, values in window_means(norms).items()}
    assert means == {"step 1": 1.0, "steps 1-10": 5.5, "steps 16-25": 20.5}
    few = {window: float(values[0, 0]) for window, values in window_means(norms[:, :6]).items()}
    assert few == {"step 1": 1.0, "steps 1-6": 3.5}


def test_the_norms_table_states_geometric_means_over_the_seeds() -> None:
    norms = np.array([[[1.0, 9.0, 2.0]], [[4.0, 1.0, 8.0]]])
    row = norms_table({"plain20": norms}).rows[0]
    assert row[:2] == ("plain20", "step 1")
    assert row[2:] == pytest.approx((2.0, 4.0, 0.5, 2.0))


BOWL = [[4.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 1.0, 4.0]]
PIT = [[9.0, 9.0, 0.5], [9.0, 0.0, 9.0], [9.0, 9.0, 9.0]]
HILLS = [[0.0, 9.0, 0.5], [9.0, 2.0, 9.0], [0.2, 9.0, 9.0]]


@pytest.mark.parametrize(
    ("plain", "residual", "surfaces", "shown"),
    [
        ([5.0, 1.0], [1.5, 1.0], (PIT, BOWL), [True, True, True, True, True, None]),
        ([5.0, 1.0], [1.5, 1.0], (HILLS, BOWL), [True, True, True, True, True, True]),
        ([0.001, 1.0], [0.0001, 1.0], (BOWL, HILLS), [False, True, False, False, False, False]),
        ([1.0, 0.001, 1.0], [1.0, 1.0], (BOWL, BOWL), [False, True, True, True, None, None]),
        ([500.0, 1.0], [1.5, 1.0], (BOWL, BOWL), [True, False, True, True, None, None]),
    ],
    ids=["as in the papers", "with hills", "opposite", "vanishing in the middle", "exploding"],
)
def test_verdicts_follow_the_measurements(
    plain: list[float], residual: list[float], surfaces: tuple, shown: list[bool | None]
) -> None:
    norms = {
        name: np.tile(np.array(layers), (2, 12, 1))
        for name, layers in (("plain56", plain), ("resnet56", residual))
    }
    by_name = dict(zip(("plain56", "resnet56"), surfaces, strict=True))
    results = verdicts(norms, by_name, 56, 10)
    assert [verdict.shown for verdict in results] == shown


def test_sentences_state_the_norms_and_the_surfaces() -> None:
    """Two seeds with equal norms, which change after the first step."""
    norms = {
        "plain56": np.tile(np.array([5.0, 1.0, 2.0]), (2, 12, 1)),
        "resnet56": np.tile(np.array([1.5, 3.0, 1.0]), (2, 12, 1)),
    }
    norms["plain56"][:, 0] = 6.0, 8.0, 2.0
    norms["resnet56"][:, -5:, 0] = 0.5  # its mean over the last ten steps is 1
    results = verdicts(norms, {"plain56": HILLS, "resnet56": BOWL}, 56, 10)
    assert [stated(verdict.text) for verdict in results] == [
        "12 plain56 0.5 0.01 2",
        "12 plain56 4 3 100 2",
        "4 plain56 3 resnet56 2",
        "10 5 plain56 3 resnet56 2",
        "56 resnet56 44 plain56 5",
        "1 resnet56 3 plain56 2",
    ]


@pytest.mark.parametrize(("norm", "shown"), [(0.01, True), (0.009, False)])
def test_a_gradient_vanishes_below_a_hundredth_of_the_last_layers(
    norm: float, *, shown: bool
) -> None:
    norms = {name: np.array([[[norm, 1.0]]]) for name in ("plain56", "resnet56")}
    surfaces = dict.fromkeys(norms, BOWL)
    assert verdicts(norms, surfaces, 56, 10)[0].shown is shown


@pytest.mark.parametrize(("norm", "shown"), [(100.0, True), (100.5, False)])
def test_a_gradient_explodes_above_a_hundred_times_the_last_layers(
    norm: float, *, shown: bool
) -> None:
    norms = {name: np.array([[[norm, 1.0]]]) for name in ("plain56", "resnet56")}
    surfaces = dict.fromkeys(norms, BOWL)
    assert verdicts(norms, surfaces, 56, 10)[1].shown is shown


@pytest.mark.parametrize(("points", "shown"), [(4, None), (6, True), (-4, None), (-6, False)])
def test_basins_differ_if_they_are_five_points_apart(points: int, *, shown: bool | None) -> None:
    """Of a hundred grid points, 70 are low around the plain network."""

    def surface(low: int) -> list[list[float]]:
        losses = np.full(100, 9.0)
        losses[np.argsort(np.arange(100) != 55, kind="stable")[:low]] = 0
        return losses.reshape(10, 10).tolist()

    norms = {name: np.ones((1, 12, 2)) for name in ("plain56", "resnet56")}
    surfaces = {"plain56": surface(70), "resnet56": surface(70 + points)}
    verdict = verdicts(norms, surfaces, 56, 10)[4]
    assert verdict.shown is shown
    assert stated(verdict.text) == f"{70 + points} resnet56 70 plain56 5"


def test_evenness_is_judged_at_the_first_and_over_the_last_steps() -> None:
    """The plain network is uneven at the first step and even afterwards."""
    plain, residual = np.ones((1, 12, 2)), np.ones((1, 12, 2))
    plain[:, 0, 0], residual[:, :, 0] = 50.0, 2.0
    surfaces = {"plain56": BOWL, "resnet56": BOWL}
    results = verdicts({"plain56": plain, "resnet56": residual}, surfaces, 56, 10)
    assert [verdict.shown for verdict in results[2:4]] == [True, False]


def test_nearly_equal_surfaces_decide_nothing() -> None:
    """On a grid of 5 x 5, a single point differs in basin and minimum."""
    plain = np.full((5, 5), 9.0)
    plain[2, 2] = 0
    residual = plain.copy()
    residual[0, 0] = 1
    norms = {name: np.ones((1, 12, 2)) for name in ("plain56", "resnet56")}
    surfaces = {"plain56": plain.tolist(), "resnet56": residual.tolist()}
    results = verdicts(norms, surfaces, 56, 10)
    assert [verdict.shown for verdict in results[-2:]] == [None, None]
    assert "one seed" in results[0].text


def test_measuring_stops_when_asked(laboratory: Laboratory) -> None:
    run = laboratory.train("plain20", 0)
    stopped = interrupted_copy(laboratory)
    with pytest.raises(InterruptedRunError, match=r"0 of 5 .*resnet20"):
        measure_seed_norms(stopped, run, "resnet20", 5)
    with pytest.raises(InterruptedRunError, match="point 1 of 9"):
        measure_run_surface(stopped, run, 3)


@pytest.mark.slow
def test_the_experiment_writes_its_report_and_measures_once(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = gradients.run_experiment(laboratory, [20], [0], 30, 3)
    page = write_experiment_report(report, tmp_path)
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert figures == {"gradients-20.svg", "surface.svg"}
    assert "first 12 steps" in report.sections[0].paragraphs[0]  # its run has no more
    run = laboratory.train("resnet20", 0)
    images, labels = sample_training_images(laboratory, run, SURFACE_IMAGES)
    centre = measure_run_surface(laboratory, run, 3)["losses"][1][1]
    logits = predict_logits(run.trained.network, images)
    assert centre == pytest.approx(mean_loss(logits, labels), rel=1e-5)
    for function in ("_measure_norms", "_measure_surface"):
        monkeypatch.delattr(gradients_measurements, function)
    assert gradients.run_experiment(laboratory, [20], [0], 30, 3).verdicts == report.verdicts
