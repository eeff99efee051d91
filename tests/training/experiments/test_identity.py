"""The experiment `identity`: constructed networks, and stacks that are trained to copy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laboratories import interrupted_copy, laboratory_at
from stated import stated
from torch import nn

from training.errors import InterruptedRunError, RecipeError
from training.experiments import identity, identity_measurements
from training.experiments.constructed_network import deepen, make_identity
from training.experiments.experiment_report import write_experiment_report
from training.experiments.identity_figures import construction_table, copying_table
from training.experiments.identity_measurements import ConstructedPair, construct
from training.experiments.identity_stacks import (
    CopyingErrors,
    best_rate,
    build_stack,
    train_to_copy,
)
from training.experiments.identity_verdicts import verdicts
from training.experiments.laboratory import Laboratory
from training.learning.blocks import PlainBlock, PreactivationBlock
from training.learning.networks import build_network


def trained_like(architecture: str) -> nn.Module:
    """A network in evaluation mode whose batch norms are not at their initial values."""
    torch.manual_seed(1)
    network = build_network(architecture, 10)
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(16, 3, 16, 16))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.5)
    return network.eval()


@pytest.mark.parametrize("family", ["plain", "resnet"])
def test_a_constructed_network_has_the_outputs_of_its_source(family: str) -> None:
    """Also for images from which its batch norms took no statistics."""
    shallow = trained_like(f"{family}20")
    deep = deepen(shallow, f"{family}32", 10, torch.randn(32, 3, 16, 16))
    images = torch.randn(8, 3, 16, 16)
    untrained = build_network(f"{family}32", 10).eval()
    with torch.no_grad():
        expected = shallow(images)
        torch.testing.assert_close(deep(images), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(untrained(images), expected, atol=1e-2)
    assert sum(isinstance(module, nn.Conv2d) for module in deep.modules()) == 31


def test_a_residual_identity_also_holds_in_training_mode() -> None:
    shallow = trained_like("resnet20")
    deep = deepen(shallow, "resnet32", 10, torch.randn(8, 3, 16, 16))
    images = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        outputs, expected = deep.train()(images), shallow.train()(images)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


def test_plain_identities_return_their_input() -> None:
    """Twelve blocks, and feature maps with a dead channel."""
    maps = torch.randn(16, 8, 6, 6).relu()
    maps[:, 3] = 0
    stack = nn.Sequential(*(PlainBlock(8, 8) for _ in range(12))).eval()
    for block in stack:
        make_identity(block, maps)
    with torch.no_grad():
        torch.testing.assert_close(stack(maps), maps, rtol=1e-4, atol=1e-5)


def test_preactivation_blocks_are_rejected() -> None:
    """Their input may be negative."""
    with pytest.raises(TypeError, match="PreactivationBlock"):
        make_identity(PreactivationBlock(8, 8), torch.zeros(1, 8, 2, 2))


def test_a_stack_learns_to_copy_unless_its_rate_diverges(laboratory: Laboratory) -> None:
    torch.manual_seed(0)
    maps = torch.randn(64, 4, 6, 6).relu()
    errors = train_to_copy(laboratory, build_stack("residual", 1, 4, 0), maps, 0.05, 60, 0)
    assert np.mean(errors[-5:]) < 0.5 * errors[0]
    diverged = train_to_copy(laboratory, build_stack("plain", 2, 4, 0), maps, 1e30, 60, 0)
    assert diverged[-1] == np.inf
    assert len(diverged) == 60
    assert best_rate("residual", 1, [[diverged], [errors]]).rate == 0.01
    assert best_rate("residual", 1, [[errors], [diverged]]).rate == 0.1


def test_an_error_of_one_is_that_of_the_mean(laboratory: Laboratory) -> None:
    class Mean(nn.Module):
        def __init__(self, mean: float) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.tensor(mean))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mean.expand_as(x)

    torch.manual_seed(0)
    maps = 3 * torch.randn(512, 4, 6, 6).relu()
    errors = train_to_copy(laboratory, Mean(maps.mean().item()), maps, 1e-9, 20, 0)
    assert np.mean(errors) == pytest.approx(1, abs=0.05)


def test_copying_stops_when_asked(tmp_path: Path) -> None:
    stopped, stack = laboratory_at(tmp_path, lambda: True), build_stack("plain", 1, 4, 0)
    with pytest.raises(InterruptedRunError, match="step 0 of 5"):
        train_to_copy(stopped, stack, torch.rand(8, 4, 6, 6), 0.1, 5, 0)


def test_the_final_error_is_the_mean_of_the_last_ten_steps() -> None:
    stacks = CopyingErrors(
        "plain", 3, 0.1, np.array([[9.0] * 5 + [0.2] * 10, [9.0] * 5 + [0.4] * 10])
    )
    assert stacks.final.values == pytest.approx([0.2, 0.4])
    (row,) = copying_table([stacks]).rows
    assert row == ["plain", 3, 6, 0.1, 9.0, pytest.approx(0.3), pytest.approx(0.02**0.5)]


def pair(*, difference: float = 1e-5, built_loss: float = 0.5, **values: Any) -> ConstructedPair:
    """A constructed network whose losses in further training are `built_loss`."""
    defaults = {
        "images": 100,
        "difference": difference,
        "largest": 10.0,
        "loss": {"shallow": 0.5, "deep": 0.5},
        "error": {"shallow": 0.1, "deep": 0.1},
        "trained_on": {"shallow": [0.5] * 12, "deep": [built_loss] * 12},
    }
    return ConstructedPair(**defaults | values)


def copied(plain: float, residual: float, deep_plain: float, deep_residual: float) -> list:
    """Stacks of 1 and 9 blocks with these errors, two starts each."""
    errors = {"plain": (plain, deep_plain), "residual": (residual, deep_residual)}
    return [
        CopyingErrors(kind, blocks, 0.1, np.full((2, 12), error))
        for kind, by_length in errors.items()
        for blocks, error in zip((1, 9), by_length, strict=True)
    ]


@pytest.mark.parametrize(
    ("difference", "built_loss", "errors", "shown"),
    [
        (1e-5, 0.9, (0.1, 0.01, 0.5, 0.009), [True] * 7),
        (1.0, 0.4, (0.01, 0.1, 0.001, 0.5), [False] * 7),
    ],
    ids=["as in the paper", "opposite"],
)
def test_verdicts_follow_the_measurements(
    difference: float, built_loss: float, errors: tuple, shown: list[bool]
) -> None:
    built = {
        "plain": [pair(difference=difference, built_loss=built_loss)],
        "resnet": [pair(difference=difference)],
    }
    results = verdicts(built, copied(*errors), 20, 56)
    assert [verdict.shown for verdict in results] == shown
    assert all("over one seed" in verdict.text for verdict in results[:3])
    assert all("over 2 starts" in verdict.text for verdict in results[3:])


def test_sentences_state_differences_and_final_errors() -> None:
    """Of two seeds the largest difference of logits, and the mean excess of the losses.

    In further training, excesses are those of the first step and of the last ten.
    """
    losses = {"shallow": [0.5] * 12, "deep": [0.75, 9.0, *[0.625] * 10]}
    changed = {"loss": {"shallow": 0.5, "deep": 0.75}, "error": {"shallow": 0.1, "deep": 0.2}}
    built = {
        "plain": [pair(difference=2e-5, trained_on=losses, **changed), pair(built_loss=0.7)],
        "resnet": [pair(), pair(difference=3e-5, loss={"shallow": 0.5, "deep": 0.25})],
    }
    results = verdicts(built, copied(0.1, 0.02, 0.5, 0.03), 20, 56)
    assert [stated(verdict.text) for verdict in results] == [
        "plain56 plain20 plain20 2e-05 0.25 10 2",
        "resnet56 resnet20 resnet20 3e-05 0.25 0 2",
        "plain56 plain20 +0.225 +0.162 10 resnet56 resnet20 +0.000 +0.000 10 2",
        "2 0.1 0.02 5 2",
        "18 0.5 0.03 16.7 2",
        "0.1 2 0.5 18 2",
        "0.02 2 0.03 18 2",
    ]


def test_depth_is_judged_by_the_shortest_and_the_longest_stack() -> None:
    """Of three lengths; with one start."""
    stacks = [
        CopyingErrors(kind, blocks, 0.1, np.full((1, 12), error))
        for kind, errors in (("plain", (0.2, 0.1, 0.4)), ("residual", (0.02, 0.05, 0.01)))
        for blocks, error in zip((1, 3, 9), errors, strict=True)
    ]
    *_, plain, residual = verdicts({"plain": [pair()], "resnet": [pair()]}, stacks, 20, 56)
    assert (plain.shown, stated(plain.text)) == (True, "0.2 2 0.4 18")
    assert (residual.shown, stated(residual.text)) == (True, "0.02 2 0.01 18")


def test_the_construction_table_compares_both_networks() -> None:
    built = {"plain": [pair(loss={"shallow": 0.5, "deep": 0.75}, error={"shallow": 0, "deep": 1})]}
    (row,) = construction_table(built, 20, 56, [3]).rows
    assert list(row) == ["plain56", "plain20", 3, 0.5, 0.75, 0.25, 0, 1, 1e-5, 10.0]


@pytest.mark.parametrize(
    ("depth", "deeper", "message"),
    [(20, 20, "--deeper must be larger"), (20, 21, "plain21"), (18, 34, "--depth must be")],
)
def test_depths_are_checked_before_any_training(
    tmp_path: Path, depth: int, deeper: int, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        identity.run_experiment(laboratory_at(tmp_path / "runs"), depth, deeper, [0], 1, 1)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_construction_leaves_the_run_unchanged_and_is_reproducible(
    laboratory: Laboratory,
) -> None:
    run = laboratory.train("resnet20", 0)
    before = {name: values.clone() for name, values in run.trained.network.state_dict().items()}
    constructed = construct(laboratory, run, 32, 2)
    for name, values in run.trained.network.state_dict().items():
        assert torch.equal(values, before[name])
    torch.manual_seed(1234)
    again = identity_measurements._construct(laboratory, run, 32, 2)
    assert ConstructedPair(**again) == constructed


@pytest.mark.slow
def test_a_construction_is_kept_and_its_training_stops_when_asked(laboratory: Laboratory) -> None:
    run = laboratory.train("resnet20", 0)
    stopped = interrupted_copy(laboratory)
    kept = construct(laboratory, run, 32, 2)
    assert construct(stopped, run, 32, 2) == kept
    with pytest.raises(InterruptedRunError):
        construct(stopped, run, 32, 3)


@pytest.mark.slow
def test_the_experiment_writes_its_report_and_measures_once(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = identity.run_experiment(laboratory, 20, 32, [0], 30, 2)
    page = write_experiment_report(report, tmp_path)
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert figures == {"trained-on-plain.svg", "trained-on-resnet.svg", "copying.svg"}
    assert [verdict.shown for verdict in report.verdicts[:2]] == [True, True]
    rows = (page.parent / "tables" / "trained-on.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2 * 12
    paragraphs = [section.paragraphs[0] for section in report.sections]
    assert "12 steps" in paragraphs[1]  # its run has no more
    assert "last 2 steps" in paragraphs[2]
    for function in ("_construct", "_measure_copying"):
        monkeypatch.delattr(identity_measurements, function)
    assert identity.run_experiment(laboratory, 20, 32, [0], 30, 2).verdicts == report.verdicts
