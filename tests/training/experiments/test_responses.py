"""The experiment `responses`: standard deviations of layers, and verdicts on them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratories import interrupted_copy
from stated import stated

from training.errors import InterruptedRunError, RecipeError
from training.experiments import responses
from training.experiments.experiment_report import write_experiment_report
from training.experiments.laboratory import Laboratory
from training.experiments.responses_figures import summary_table
from training.experiments.responses_measurements import (
    LayerResponses,
    output_deviations,
    response_norms,
)
from training.experiments.responses_verdicts import verdicts
from training.learning.networks import build_network


def test_a_deviation_is_taken_over_all_outputs() -> None:
    """Batches of unequal size count by their images, and a large mean does not cancel digits."""
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(3).eval()
    norm.bias.data.fill_(1000.0)
    network = torch.nn.Sequential(norm, torch.nn.ReLU(inplace=True))
    batches = [torch.randn(5, 3, 4, 4), 3 * torch.randn(2, 3, 4, 4)]
    outputs = np.concatenate([norm(batch).detach().numpy() for batch in batches]).astype(np.float64)
    deviations = output_deviations(network, [norm], batches)
    assert deviations == pytest.approx([outputs.std()], rel=1e-6)
    assert not norm._forward_hooks


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet20", 19), ("resnet20-b", 19), ("plain20", 19), ("plain18", 17)]
)
def test_every_convolution_outside_shortcuts_is_a_layer(name: str, layers: int) -> None:
    norms = response_norms(build_network(name, 10), name)
    assert len(norms) == layers
    assert list(norms)[:2] == ["conv1", "layer1.0.conv1"]
    assert not [name for name in norms if "downsample" in name]


def test_preactivation_networks_are_rejected() -> None:
    with pytest.raises(RecipeError, match="preresnet20"):
        response_norms(build_network("preresnet20", 10), "preresnet20")


@pytest.mark.parametrize(
    ("means", "shown"),
    [
        ((((1.0, 1.0), (0.5, 0.5)), ((1.0, 1.0), (0.4, 0.4))), [True, True, True]),
        ((((1.0, 1.0), (1.5, 0.5)), ((1.0, 1.0), (1.6, 0.4))), [None, None, None]),
        ((((1.0, 1.0), (2.0, 2.0)), ((1.0, 1.0), (2.1, 2.1))), [False, False, False]),
    ],
    ids=["as in the paper", "seeds disagree", "opposite"],
)
def test_verdicts_follow_the_means(means: tuple, shown: list[bool | None]) -> None:
    measured = [
        LayerResponses(
            f"{family}{depth}", ["a", "b"], np.repeat(np.array(seeds)[:, None], 2, axis=1)
        )
        for depth, twins in zip((20, 56), means, strict=True)
        for family, seeds in zip(("plain", "resnet"), twins, strict=True)
    ]
    assert [verdict.shown for verdict in verdicts(measured)] == shown


def test_a_mean_that_one_layer_dominates_decides_nothing() -> None:
    measured = [
        LayerResponses(name, ["a", "b", "c"], np.array([values]))
        for name, values in (("plain20", (9.0, 1.0, 1.0)), ("resnet20", (2.0, 1.1, 1.1)))
    ]
    (verdict,) = verdicts(measured)
    assert verdict.shown is None
    assert stated(verdict.text) == "resnet20 1.400 plain20 3.667 1 3"


@pytest.mark.parametrize(("weaker", "shown"), [(1, None), (3, None), (4, True)])
def test_more_than_half_of_the_layers_must_respond_more_weakly(
    weaker: int, *, shown: bool | None
) -> None:
    """Of six; the mean over the layers is weaker in any case."""
    plain = np.where(np.arange(6) < weaker, 9.0, 1.0)
    measured = [
        LayerResponses(name, list("abcdef"), values[None])
        for name, values in (("plain20", plain), ("resnet20", np.full(6, 1.5)))
    ]
    (verdict,) = verdicts(measured)
    assert verdict.shown is shown


def test_sentences_state_the_mean_responses() -> None:
    """Of both twins at each depth, and of both depths of the residual network."""
    measured = [
        LayerResponses(name, ["a", "b"], np.array([values]))
        for name, values in (
            ("plain20", (9.0, 1.0)),
            ("resnet20", (2.0, 1.5)),
            ("plain56", (3.0, 4.0)),
            ("resnet56", (1.0, 0.5)),
        )
    ]
    assert [stated(verdict.text) for verdict in verdicts(measured)] == [
        "resnet20 1.750 plain20 5.000 1 2",
        "resnet56 0.750 plain56 3.500 2 2",
        "resnet56 0.750 resnet20 1.750",
    ]


def test_the_summary_averages_over_seeds_before_it_takes_the_median() -> None:
    measured = LayerResponses("plain20", ["a", "b", "c"], np.array([[1.0, 2, 9], [3.0, 4, 11]]))
    ((name, layers, seeds, mean, deviation, median, smallest, largest),) = summary_table(
        [measured]
    ).rows
    assert (name, layers, seeds) == ("plain20", 3, 2)
    assert (mean, deviation) == pytest.approx((5.0, 2**0.5))
    assert (median, smallest, largest) == (3.0, 2.0, 10.0)


def test_the_experiment_writes_its_report_and_measures_once(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    report = responses.run_experiment(laboratory, [20], [0], 50)
    page = write_experiment_report(report, tmp_path)
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert figures == {"responses-in-order.svg", "responses-by-size.svg"}
    rows = (page.parent / "tables" / "layers.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 19
    for path in (laboratory.runs / ".measurements").glob("responses-*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"measured": [7.0] * 19}))
    again = responses.run_experiment(laboratory, [20], [0], 50)
    assert "7.000" in again.verdicts[0].text
    other = responses.run_experiment(laboratory, [20], [0], 49)
    assert "7.000" not in other.verdicts[0].text


def test_measuring_stops_when_asked(laboratory: Laboratory) -> None:
    for name in ("plain20", "resnet20"):
        laboratory.train(name, 0)
    with pytest.raises(InterruptedRunError, match="stopped at 0 of"):
        responses.run_experiment(interrupted_copy(laboratory), [20], [0], 31)
