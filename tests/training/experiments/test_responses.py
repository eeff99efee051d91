"""Responses: the deviation of what stands behind each convolution, and what is said of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from training.errors import InterruptedRunError, RecipeError
from training.experiments import responses
from training.experiments.experiment_report import write_experiment_report
from training.experiments.laboratory import Laboratory
from training.experiments.responses import Responses, deviations, response_norms, verdicts
from training.learning.networks import build_network
from training.run.weights import LAST_WEIGHTS


def test_a_deviation_is_that_of_all_outputs_together() -> None:
    """Batches of unequal size count by their images, and a constant a thousand times the deviation takes nothing away."""
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(3).eval()
    norm.bias.data.fill_(1000.0)
    network = torch.nn.Sequential(norm, torch.nn.ReLU(inplace=True))
    batches = [torch.randn(5, 3, 4, 4), 3 * torch.randn(2, 3, 4, 4)]
    outputs = np.concatenate([norm(batch).detach().numpy() for batch in batches]).astype(np.float64)
    assert deviations(network, [norm], batches) == pytest.approx([outputs.std()], rel=1e-6)
    assert not norm._forward_hooks


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet20", 19), ("resnet20-b", 19), ("plain20", 19), ("plain18", 17)]
)
def test_every_convolution_outside_shortcuts_is_a_layer(name: str, layers: int) -> None:
    """All layers with weights but the last, in order; projections are none."""
    norms = response_norms(build_network(name, 10), name)
    assert len(norms) == layers
    assert list(norms)[:2] == ["conv1", "layer1.0.conv1"]
    assert not [found for found in norms if "downsample" in found]


def test_preactivation_is_refused() -> None:
    """No norm there is behind its convolution alone."""
    with pytest.raises(RecipeError, match="preresnet20 has no norms behind"):
        response_norms(build_network("preresnet20", 10), "preresnet20")


@pytest.mark.parametrize(
    ("means", "shown"),
    [
        ((((1.0, 1.0), (0.5, 0.5)), ((1.0, 1.0), (0.4, 0.4))), [True, True, True]),
        ((((1.0, 1.0), (1.5, 0.5)), ((1.0, 1.0), (1.6, 0.4))), [None, None, None]),
        ((((1.0, 1.0), (2.0, 2.0)), ((1.0, 1.0), (2.1, 2.1))), [False, False, False]),
    ],
)
def test_verdicts_follow_the_means(means: tuple, shown: list[bool | None]) -> None:
    """As in the paper; seeds that do not agree; the other way round."""
    made = [
        Responses(f"{kind}{depth}", ["a", "b"], np.repeat(np.array(seeds)[:, None], 2, axis=1))
        for depth, twins in zip((20, 56), means, strict=True)
        for kind, seeds in zip(("plain", "resnet"), twins, strict=True)
    ]
    assert [verdict.shown for verdict in verdicts(made)] == shown


def test_a_few_large_layers_make_no_rule() -> None:
    """A plain network whose mean is the higher for one of three layers alone."""
    made = [
        Responses(name, ["a", "b", "c"], np.array([values]))
        for name, values in (("plain20", (9.0, 1.0, 1.0)), ("resnet20", (2.0, 1.1, 1.1)))
    ]
    (verdict,) = verdicts(made)
    assert verdict.shown is None
    assert "1 of 3 layers" in verdict.text


def test_an_experiment_leaves_its_files_and_measures_once(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    """The second time the kept figures are read: other figures in their place are what comes out."""
    page = write_experiment_report(responses.perform(laboratory, [20], [0], 50), tmp_path)
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert figures == {"responses-in-order.svg", "responses-by-size.svg"}
    assert len((page.parent / "tables" / "layers.csv").read_text().splitlines()) == 1 + 2 * 19
    weights = laboratory.directory("plain20", 0).path / LAST_WEIGHTS
    assert weights.exists()
    for path in (laboratory.runs / ".measurements").glob("responses-*.json"):
        kept = json.loads(path.read_text())
        path.write_text(json.dumps(kept | {"measured": [7.0] * 19}))
    again = responses.perform(laboratory, [20], [0], 50)
    assert "7.000" in again.verdicts[0].text
    assert "7.000" not in responses.perform(laboratory, [20], [0], 49).verdicts[0].text


def test_a_person_may_stop_it(laboratory: Laboratory) -> None:
    """Between two batches; the trainings are there already."""
    for name in ("plain20", "resnet20"):
        laboratory.train(name, 0)
    stopping = Laboratory(
        laboratory.wish, laboratory.runs, laboratory.display, laboratory.process, lambda: True
    )
    with pytest.raises(InterruptedRunError, match="stopped while measuring"):
        responses.perform(stopping, [20], [0], 31)
