"""Identity: the constructed network answers as the one it is made from, and stacks learn to copy or do not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from laboratories import laboratory_at
from torch import nn

from training.errors import InterruptedRunError, RecipeError
from training.experiments import identity
from training.experiments.constructed_network import deepen, make_identity
from training.experiments.experiment_report import write_experiment_report
from training.experiments.identity_stacks import (
    CopyingErrors,
    best_rate,
    build_stack,
    learn_to_copy,
)
from training.experiments.identity_verdicts import verdicts
from training.experiments.laboratory import Laboratory
from training.learning.blocks import PlainBlock, PreactivationBlock
from training.learning.networks import build_network


def trained_like(architecture: str) -> nn.Module:
    """A network whose norms are not at their start."""
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
def test_a_constructed_network_answers_as_the_one_it_is_made_from(family: str) -> None:
    """In evaluation mode, also for images that its norms were not set from; a network of that depth at its start does not."""
    shallow = trained_like(f"{family}20")
    deep = deepen(shallow, f"{family}32", 10, torch.randn(32, 3, 16, 16))
    others = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        expected = shallow(others)
        torch.testing.assert_close(deep(others), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(
            build_network(f"{family}32", 10).eval()(others), expected, atol=1e-2
        )
    assert sum(isinstance(module, nn.Conv2d) for module in deep.modules()) == 31


def test_a_residual_identity_holds_with_the_statistics_of_a_batch() -> None:
    """F is zero whatever its norms see."""
    shallow = trained_like("resnet20")
    deep, images = (
        deepen(shallow, "resnet32", 10, torch.randn(8, 3, 16, 16)),
        torch.randn(8, 3, 16, 16),
    )
    with torch.no_grad():
        torch.testing.assert_close(
            deep.train()(images), shallow.train()(images), rtol=1e-4, atol=1e-5
        )


def test_a_stack_of_plain_identities_gives_back_what_it_gets() -> None:
    """Twelve blocks, maps with a dead channel."""
    maps = torch.randn(16, 8, 6, 6).relu()
    maps[:, 3] = 0
    stack = nn.Sequential(*(PlainBlock(8, 8) for _ in range(12))).eval()
    for block in stack:
        make_identity(block, maps)
    with torch.no_grad():
        torch.testing.assert_close(stack(maps), maps, rtol=1e-4, atol=1e-5)


def test_a_block_without_an_identity_of_this_kind_is_refused() -> None:
    """What comes before a pre-activated block may be negative."""
    with pytest.raises(TypeError, match="PreactivationBlock"):
        make_identity(PreactivationBlock(8, 8), torch.zeros(1, 8, 2, 2))


def test_a_stack_learns_and_a_rate_that_diverges_is_not_taken(laboratory: Laboratory) -> None:
    """A residual block's error falls; a rate far too high ends in infinity, and the other one is the better."""
    torch.manual_seed(0)
    maps = torch.randn(64, 4, 6, 6).relu()
    learned = learn_to_copy(laboratory, build_stack("residual", 1, 4, 0), maps, 0.05, 60, 0)
    assert np.mean(learned[-5:]) < 0.5 * learned[0]
    diverged = learn_to_copy(laboratory, build_stack("plain", 2, 4, 0), maps, 1e30, 60, 0)
    assert diverged[-1] == np.inf
    assert len(diverged) == 60
    assert best_rate("residual", 1, [[diverged], [learned]]).rate == 0.01


def test_learning_to_copy_stops_when_asked(tmp_path: Path) -> None:
    """Before the next step."""
    laboratory = laboratory_at(tmp_path, lambda: True)
    with pytest.raises(InterruptedRunError, match="step 0 of 5"):
        learn_to_copy(laboratory, build_stack("plain", 1, 4, 0), torch.rand(8, 4, 6, 6), 0.1, 5, 0)


def found(*, difference: float, built: float) -> dict:
    """What was measured of one built network, whose losses while it trains on are `built`."""
    return {
        "difference": difference,
        "largest": 10.0,
        "loss": {"shallow": 0.5, "deep": 0.5},
        "error": {"shallow": 0.1, "deep": 0.1},
        "trained_on": {"shallow": [0.5] * 12, "deep": [built] * 12},
    }


def copied(
    plain: float, residual: float, deep_plain: float, deep_residual: float
) -> list[CopyingErrors]:
    """Stacks of 1 and 9 blocks that ended at these errors."""
    ended = {"plain": (plain, deep_plain), "residual": (residual, deep_residual)}
    return [
        CopyingErrors(kind, blocks, 0.1, np.full((2, 12), error))
        for kind, errors in ended.items()
        for blocks, error in zip((1, 9), errors, strict=True)
    ]


@pytest.mark.parametrize(
    ("difference", "built", "ended", "shown"),
    [
        (1e-5, 0.9, (0.1, 0.01, 0.5, 0.01), [True] * 7),
        (1.0, 0.4, (0.01, 0.1, 0.001, 0.5), [False] * 7),
    ],
)
def test_verdicts_follow_the_figures(
    difference: float, built: float, ended: tuple, shown: list[bool]
) -> None:
    """As in the paper, and the other way round: two constructions, training on, two lengths, two kinds."""
    of = {
        family: [found(difference=difference, built=its)]
        for family, its in (("plain", built), ("resnet", 0.5))
    }
    said = verdicts(of, copied(*ended), 20, 56)
    assert [verdict.shown for verdict in said] == shown
    assert all("over one seed" in verdict.text for verdict in said[:3])
    assert all("over 2 starts" in verdict.text for verdict in said[3:])


@pytest.mark.parametrize(
    ("deeper", "said"), [(20, "not deeper than one of 20"), (21, "no architecture 'plain21'")]
)
def test_what_can_not_be_built_is_said_before_anything_is_trained(
    tmp_path: Path, deeper: int, said: str
) -> None:
    """Nothing is written."""
    with pytest.raises(RecipeError, match=said):
        identity.perform(laboratory_at(tmp_path / "runs"), 20, deeper, [0], 1, 1)
    assert not (tmp_path / "runs").exists()


def test_a_run_stays_as_it_was_trained_and_what_is_built_on_it_is_drawn_by_its_seed(
    laboratory: Laboratory,
) -> None:
    """Its network is trained on as a copy; whatever was drawn before, a second construction is the same."""
    run = laboratory.train("resnet20", 0)
    before = {name: values.clone() for name, values in run.trained.network.state_dict().items()}
    found = identity.construct(laboratory, run, 32, 2)
    assert all(
        torch.equal(values, before[name])
        for name, values in run.trained.network.state_dict().items()
    )
    torch.manual_seed(1234)
    assert identity._construct(laboratory, run, 32, 2) == found


@pytest.mark.slow
def test_the_experiment_ends_in_its_files_and_measures_once(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the digits, a few steps; a second time everything is read."""
    report = identity.perform(laboratory, 20, 32, [0], 30, 2)
    page = write_experiment_report(report, tmp_path)
    assert {path.name for path in (page.parent / "figures").iterdir()} == {
        "trained-on-plain.svg",
        "trained-on-resnet.svg",
        "copying.svg",
    }
    assert [verdict.shown for verdict in report.verdicts[:2]] == [True, True]
    assert (
        len((page.parent / "tables" / "trained-on.csv").read_text().splitlines()) == 1 + 2 * 2 * 12
    )
    texts = [part.text[0] for part in report.parts]
    assert "for 12 steps" in texts[1]  # a run of 12 has no more
    assert "2 steps; the error at the end is the mean of the last 2." in texts[2]
    for measuring in ("_construct", "_copy_maps"):
        monkeypatch.delattr(identity, measuring)
    assert identity.perform(laboratory, 20, 32, [0], 30, 2).verdicts == report.verdicts
