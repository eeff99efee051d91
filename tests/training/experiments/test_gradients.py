"""Gradients: norms that are the layers' own, directions as long as filters, and what may be said of both."""

from pathlib import Path

import numpy as np
import pytest
import torch
from laboratories import laboratory_at

from training.errors import InterruptedRunError
from training.experiments import gradients
from training.experiments.experiment_report import write_experiment_report
from training.experiments.gradients_verdicts import verdicts
from training.experiments.laboratory import Laboratory
from training.experiments.loss_surface import basin, draw_direction, grid, measure_surface, minima
from training.experiments.training_steps import answers, loss_of, sample_images
from training.learning.networks import build_network


def test_a_direction_is_as_long_as_the_weights_filter_by_filter() -> None:
    """Norms' parameters and biases have none; another seed draws another one."""
    network = build_network("resnet20", 10)
    direction, other = draw_direction(network, 0), draw_direction(network, 1)
    for parameter, along, across in zip(network.parameters(), direction, other, strict=True):
        if parameter.ndim <= 1:
            assert not along.any()
        else:
            torch.testing.assert_close(
                along.flatten(1).norm(dim=1), parameter.detach().flatten(1).norm(dim=1)
            )
            assert not torch.equal(along, across)


def test_the_surface_has_the_networks_loss_at_its_centre_and_leaves_it_as_it_was() -> None:
    """And another one at each other point."""
    torch.manual_seed(0)
    network, images, labels = (
        build_network("plain20", 10).eval(),
        torch.randn(16, 3, 8, 8),
        torch.arange(16) % 10,
    )
    loss = loss_of(answers(network, images), labels)
    counted: list[tuple[int, int]] = []
    losses = measure_surface(
        network, images, labels, grid(3), 0, lambda done, of: counted.append((done, of))
    )
    assert losses[1][1] == pytest.approx(loss, rel=1e-6)
    assert losses[0][1] != losses[1][1] != losses[1][0]
    assert counted == [(done, 9) for done in range(1, 10)]
    assert loss_of(answers(network, images), labels) == loss


def test_basin_and_minima_of_surfaces_that_are_known() -> None:
    """A bowl has one minimum, at the centre; two valleys have two. ln(10) / 2 is 1.15."""
    bowl = [[4.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 2.0, 4.0]]
    assert basin(bowl, 10) == pytest.approx(4 / 9)
    assert minima(bowl) == 1
    assert minima([[0.0, 5.0, 1.0], [5.0, 5.0, 5.0], [5.0, 5.0, 5.0]]) == 2


def test_norms_are_those_of_each_3x3_convolution() -> None:
    """19 in a network of 20 layers, whatever its shortcuts are."""
    network = build_network("resnet20-b", 10)
    network(torch.randn(4, 3, 8, 8)).sum().backward()
    norms = gradients.gradient_norms(network)
    assert len(norms) == 19
    assert norms[0] == pytest.approx(network.get_parameter("conv1.weight").grad.norm().item())
    assert norms[-1] == pytest.approx(
        network.get_parameter("layer3.2.conv2.weight").grad.norm().item()
    )


def test_windows_are_the_first_step_the_first_ten_and_the_last_ten() -> None:
    """Of 25 steps whose norm is their number."""
    norms = np.arange(1.0, 26)[None, :, None]
    means = {window: float(values[0, 0]) for window, values in gradients.windows(norms).items()}
    assert means == {"step 1": 1.0, "steps 1-10": 5.5, "steps 16-25": 20.5}


BOWL = [[4.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 1.0, 4.0]]
PIT = [[9.0, 9.0, 0.5], [9.0, 0.0, 9.0], [9.0, 9.0, 9.0]]
HILLS = [[0.0, 9.0, 0.5], [9.0, 2.0, 9.0], [0.2, 9.0, 9.0]]


@pytest.mark.parametrize(
    ("plain", "residual", "around", "shown"),
    [
        ([5.0, 1.0], [1.5, 1.0], (PIT, BOWL), [True, True, True, True, True, None]),
        ([5.0, 1.0], [1.5, 1.0], (HILLS, BOWL), [True, True, True, True, True, True]),
        ([0.001, 1.0], [0.0001, 1.0], (BOWL, HILLS), [False, True, False, False, False, False]),
        ([1.0, 0.001, 1.0], [1.0, 1.0], (BOWL, BOWL), [False, True, True, True, None, None]),
        ([500.0, 1.0], [1.5, 1.0], (BOWL, BOWL), [True, False, True, True, None, None]),
    ],
)
def test_verdicts_follow_the_figures(
    plain: list[float], residual: list[float], around: tuple, shown: list[bool | None]
) -> None:
    """As in the papers; the same with hills; the other way round; gradients that vanish in the middle; that explode."""
    norms = {
        name: np.tile(np.array(layers), (2, 12, 1))
        for name, layers in (("plain56", plain), ("resnet56", residual))
    }
    surfaces = dict(zip(("plain56", "resnet56"), around, strict=True))
    said = verdicts(norms, surfaces, [56], 10)
    assert [verdict.shown for verdict in said] == shown
    assert f"is {min(plain) / plain[-1]:.3g} times the last layer's" in said[0].text
    assert f"the first layer's is {plain[0] / plain[-1]:.3g} times it" in said[1].text
    assert "over 2 seeds" in said[0].text


def test_surfaces_that_are_nearly_alike_decide_nothing() -> None:
    """A grid of 5 x 5, one point of which is in one of the basins alone, and is a minimum of its own."""
    plain = np.full((5, 5), 9.0)
    plain[2, 2] = 0
    residual = plain.copy()
    residual[0, 0] = 1
    norms = {name: np.ones((1, 12, 2)) for name in ("plain56", "resnet56")}
    said = verdicts(norms, {"plain56": plain.tolist(), "resnet56": residual.tolist()}, [56], 10)
    assert [verdict.shown for verdict in said[-2:]] == [None, None]
    assert "one seed" in said[0].text


def test_measuring_stops_when_asked(laboratory: Laboratory) -> None:
    """Before the first step, and after a point; nothing is kept."""
    run = laboratory.train("plain20", 0)
    stopped = laboratory_at(laboratory.runs, lambda: True)
    with pytest.raises(InterruptedRunError, match="resnet20 begins, 0 of 5"):
        gradients.measure_norms(stopped, run, "resnet20", 0, 5)
    with pytest.raises(InterruptedRunError, match="point 1 of 9"):
        gradients.surface(stopped, run, 3)


@pytest.mark.slow
def test_the_experiment_ends_in_its_files_and_measures_once(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the digits; the surface's centre is the trained loss; a second time everything is read."""
    report = gradients.perform(laboratory, [20], [0], 30, 3)
    page = write_experiment_report(report, tmp_path)
    assert {path.name for path in (page.parent / "figures").iterdir()} == {
        "gradients-20.svg",
        "surface.svg",
    }
    assert "takes its first 12 steps" in report.parts[0].text[0]  # its run has no more
    run = laboratory.train("resnet20", 0)
    images, labels = sample_images(laboratory, run, gradients.SURFACE_IMAGES)
    centre = gradients.surface(laboratory, run, 3)["losses"][1][1]
    assert centre == pytest.approx(loss_of(answers(run.trained.network, images), labels), rel=1e-5)
    for measuring in ("_measure_norms", "_surface"):
        monkeypatch.delattr(gradients, measuring)
    assert gradients.perform(laboratory, [20], [0], 30, 3).verdicts == report.verdicts
