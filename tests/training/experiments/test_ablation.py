"""Ablation: networks without blocks, with swapped blocks, and gradients along single paths."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratories import interrupted_copy
from scipy.stats import binom
from torch import nn

from training.errors import InterruptedRunError, RecipeError
from training.experiments import ablation
from training.experiments.block_ablation import (
    BlockAblation,
    kendall_tau,
    swap_blocks,
    swap_counts,
)
from training.experiments.experiment_report import write_experiment_report
from training.experiments.laboratory import Laboratory
from training.experiments.network_parts import NetworkParts, deleted_block, run_blocks
from training.experiments.path_gradients import (
    PathGradients,
    share_of_gradient,
    share_of_paths,
    shortest_interval,
    usual_lengths,
)
from training.experiments.sample_images import SampleTestImages
from training.learning.networks import build_network


def network(name: str) -> nn.Module:
    """An untrained network in evaluation mode, with non-trivial batch norms."""
    torch.manual_seed(0)
    built = build_network(name, 10)
    built(torch.randn(8, 3, 16, 16))
    return built.eval()


@pytest.mark.parametrize("name", ["resnet20", "resnet20-b", "plain20", "resnet18-small"])
def test_stem_blocks_and_head_give_the_networks_logits(name: str) -> None:
    whole, images = network(name), torch.randn(2, 3, 16, 16)
    parts = NetworkParts.of(whole)
    with torch.inference_mode():
        logits = parts.head(run_blocks(parts.blocks, parts.stem(images)))
        assert torch.allclose(logits, whole(images), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "resnet20-b", "resnet20-c"])
def test_deleting_a_residual_block_removes_its_branch_only(name: str) -> None:
    """The output stays the same if and only if the branch was zero."""
    parts, images = NetworkParts.of(network(name)), torch.randn(2, 3, 16, 16)
    for block in parts.blocks[::2]:
        nn.init.zeros_(block.get_parameter("bn2.weight"))
        nn.init.zeros_(block.get_parameter("bn2.bias"))
    x = parts.stem(images)
    with torch.inference_mode():
        for position, block in enumerate(parts.blocks):
            assert torch.equal(deleted_block(block)(x), block(x)) == (position % 2 == 0)
            x = block(x)


def test_a_deleted_plain_block_leaves_nothing_or_the_shortcut_of_option_a() -> None:
    parts = NetworkParts.of(network("plain20"))
    changing = [parts.names[p] for p in range(9) if p not in parts.shape_keeping]
    assert changing == ["layer2.0", "layer3.0"]
    x = parts.stem(torch.randn(2, 3, 16, 16))
    assert deleted_block(parts.blocks[0])(x) is x
    assert deleted_block(parts.blocks[3])(x).shape == (2, 32, 8, 8)


def test_networks_of_other_blocks_are_rejected() -> None:
    with pytest.raises(RecipeError, match=r"layer1\.0 is a PreactivationBlock"):
        NetworkParts.of(build_network("preresnet20", 10))


def test_blocks_are_swapped_within_their_stage() -> None:
    parts = NetworkParts.of(network("resnet20"))
    assert kendall_tau(swap_blocks(parts, 0, np.random.default_rng(0))) == 1
    order = swap_blocks(parts, 20, np.random.default_rng(0))
    assert kendall_tau(order) < 1
    stages = [sorted(order[start : start + 3]) for start in (0, 3, 6)]
    assert stages == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert (order[3], order[6]) == (3, 6)


def test_one_swap_exchanges_two_blocks() -> None:
    parts = NetworkParts.of(network("resnet20"))
    order = swap_blocks(parts, 1, np.random.default_rng(0))
    assert sum(position != block for position, block in enumerate(order)) == 2
    assert sorted(order) == list(range(9))


def test_numbers_of_swaps_double_up_to_the_number_of_blocks() -> None:
    assert swap_counts(9) == [1, 2, 4, 8]
    assert swap_counts(16) == [1, 2, 4, 8, 16]


def test_reused_block_inputs_do_not_change_the_error(laboratory: Laboratory) -> None:
    run = laboratory.train("resnet20", 0)
    sample = SampleTestImages(laboratory, run, 300)
    measured = BlockAblation(laboratory, run, sample)
    labels, images = torch.cat(sample.labels), torch.cat(sample.batches(run))
    with torch.inference_mode():
        whole = (run.trained.network(images).argmax(1) != labels).double().mean().item()
        sequence = measured.without([5])
        logits = measured.parts.head(run_blocks(sequence, measured.parts.stem(images)))
    other = (logits.argmax(1) != labels).double().mean().item()
    assert len(sample.labels) > 1
    errors = measured.errors([measured.parts.blocks, sequence])
    assert errors == pytest.approx([whole, other], abs=2 / len(labels))


def test_deletions_are_drawn_anew_for_each_seed(laboratory: Laboratory) -> None:
    """`delete_many` returns a row for each number of blocks, with an error for each draw."""
    run = laboratory.train("resnet20", 0)
    measured = BlockAblation(laboratory, run, SampleTestImages(laboratory, run, 20))
    deleted: list[list[int]] = []
    measured.without = lambda positions: deleted.append(list(positions)) or []
    measured.errors = lambda sequences, _: [float(n) for n in range(len(sequences))]
    errors = measured.delete_many(draws=2, seed=0)
    assert errors == [[2.0 * n, 2.0 * n + 1] for n in range(7)]
    assert [len(set(positions)) for positions in deleted] == [n for n in range(1, 8) for _ in "ab"]
    assert {p for positions in deleted for p in positions} == set(measured.parts.shape_keeping)
    first_seed, deleted[:] = list(deleted), []
    measured.delete_many(draws=2, seed=1)
    assert deleted != first_seed
    assert len({tuple(positions) for positions in first_seed[:-2]}) > len(first_seed) / 2


def test_gradients_along_all_paths_add_up_to_the_gradient() -> None:
    """Over all 2^9 subsets of blocks, in float64."""
    parts = NetworkParts.of(network("resnet20").double())
    images, labels = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([1, 2])
    gradients = PathGradients(parts, images, labels)
    subsets = [set(s) for length in range(10) for s in itertools.combinations(range(9), length)]
    summed = torch.stack([gradients.along(subset) for subset in subsets]).sum(dim=0)
    x = parts.stem(images).detach().requires_grad_()
    logits = parts.head(run_blocks(parts.blocks, x))
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    assert torch.allclose(summed, torch.autograd.grad(loss, x)[0], atol=1e-10)
    assert len(subsets) == 512


def test_lengths_of_paths_are_binomial() -> None:
    """For the paper's 54 blocks: 20 to 34 is the shortest interval with 95 % of the paths."""
    shares = share_of_paths(54)
    low, high = usual_lengths(54)
    assert (low, high) == (20, 34)
    assert shares.sum() == pytest.approx(1)
    assert binom.cdf(high, 54, 0.5) - binom.cdf(low - 1, 54, 0.5) >= 0.95
    assert shares[low + 1 : high].sum() < 0.95


@pytest.mark.parametrize(
    ("share", "interval"), [(0.5, (1, 1)), (0.8, (1, 2)), (0.9, (0, 2)), (1.0, (0, 3))]
)
def test_the_shortest_interval_holds_the_share(share: float, interval: tuple[int, int]) -> None:
    assert shortest_interval(np.array([1.0, 5.0, 3.0, 1.0]), share) == interval


def test_the_share_of_a_length_is_its_mean_norm_times_its_number_of_paths() -> None:
    """Two blocks have 1, 2 and 1 paths of the lengths 0, 1 and 2."""
    shares = share_of_gradient([[6.0, 2.0], [1.0, 1.0], [2.0, 2.0]])
    assert shares == pytest.approx([4 / 8, 2 / 8, 2 / 8])


@pytest.mark.slow
def test_the_experiment_writes_its_report_and_measures_once(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    page = write_experiment_report(ablation.run_experiment(laboratory, 20, [0], 40, 2), tmp_path)
    figures = {path.stem for path in (page.parent / "figures").iterdir()}
    assert figures == {"deleted-alone", "deleted-many", "swapped", "path-gradients", "path-shares"}
    tables = (page.parent / "tables").iterdir()
    rows = {path.stem: len(path.read_text().splitlines()) - 1 for path in tables}
    assert rows == {
        "deleted-alone": 2 * 10,
        "deleted-many": 2 * 7 * 2,
        "swapped": 2 * 4 * 2,
        "paths": 10,
    }
    text = (page.parent / "report.md").read_text()
    assert "40 test images" in text
    assert "64 test images" in text
    for path in (laboratory.runs / ".measurements").glob("lesions-alone-*.json"):
        values = json.loads(path.read_text())
        path.write_text(json.dumps(values | {"measured": [0.25] + [0.375] * 9}))
    again = ablation.run_experiment(laboratory, 20, [0], 40, 2)
    assert "37.5 %" in again.verdicts[0].text


def test_measuring_stops_when_asked(laboratory: Laboratory) -> None:
    for name in ("plain20", "resnet20"):
        laboratory.train(name, 0)
    with pytest.raises(InterruptedRunError, match="stopped at 0 of"):
        ablation.run_experiment(interrupted_copy(laboratory), 20, [0], 31, 1)
