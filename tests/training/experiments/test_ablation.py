"""Lesions: what is left of a network without a block, in another order, along one path; and what is said of it."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from training.errors import InterruptedRunError, RecipeError
from training.experiments import ablation as lesions
from training.experiments.block_ablation import BlockAblation, swapped, tau
from training.experiments.experiment_report import write_experiment_report
from training.experiments.laboratory import Laboratory
from training.experiments.network_parts import NetworkParts, run_blocks, without
from training.experiments.path_gradients import (
    PathGradients,
    share_of_paths,
    shortest_interval,
    usual_lengths,
)
from training.experiments.sample_images import TestImages
from training.learning.networks import build_network


def network(name: str) -> nn.Module:
    """An untrained network whose norms do something, in evaluation mode."""
    torch.manual_seed(0)
    built = build_network(name, 10)
    built(torch.randn(8, 3, 16, 16))
    return built.eval()


@pytest.mark.parametrize("name", ["resnet20", "resnet20-b", "plain20", "resnet18-small"])
def test_the_parts_together_are_the_network(name: str) -> None:
    """Stem, blocks and head give its logits."""
    whole, images = network(name), torch.randn(2, 3, 16, 16)
    anatomy = NetworkParts.of(whole)
    with torch.inference_mode():
        logits = anatomy.head(run_blocks(anatomy.blocks, anatomy.stem(images)))
        assert torch.allclose(logits, whole(images), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "resnet20-b", "resnet20-c"])
def test_a_block_whose_branch_is_zero_can_be_deleted(name: str) -> None:
    """Nothing changes, wherever it stands; where the branch is not zero, something does."""
    anatomy, images = NetworkParts.of(network(name)), torch.randn(2, 3, 16, 16)
    for block in anatomy.blocks[::2]:
        nn.init.zeros_(block.get_parameter("bn2.weight"))
        nn.init.zeros_(block.get_parameter("bn2.bias"))
    x = anatomy.stem(images)
    with torch.inference_mode():
        for position, block in enumerate(anatomy.blocks):
            assert torch.equal(without(block)(x), block(x)) == (position % 2 == 0)
            x = block(x)


def test_plain_blocks_leave_nothing_or_option_a() -> None:
    """Shapes stay what the next block takes."""
    anatomy = NetworkParts.of(network("plain20"))
    assert [anatomy.names[p] for p in range(9) if p not in anatomy.movable] == [
        "layer2.0",
        "layer3.0",
    ]
    x = anatomy.stem(torch.randn(2, 3, 16, 16))
    assert without(anatomy.blocks[0])(x) is x
    assert without(anatomy.blocks[3])(x).shape == (2, 32, 8, 8)


def test_other_blocks_are_refused() -> None:
    """Pre-activation and bottlenecks are not taken apart."""
    with pytest.raises(RecipeError, match=r"layer1\.0 is neither"):
        NetworkParts.of(build_network("preresnet20", 10))


def test_swaps_stay_in_their_stage() -> None:
    """No swap is the trained order, tau 1; many are another order of the same blocks, each in its stage."""
    anatomy = NetworkParts.of(network("resnet20"))
    assert tau(swapped(anatomy, 0, np.random.default_rng(0))) == 1
    order = swapped(anatomy, 20, np.random.default_rng(0))
    assert tau(order) < 1
    assert [sorted(order[start : start + 3]) for start in (0, 3, 6)] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
    ]
    assert (order[3], order[6]) == (3, 6)


def test_the_error_is_the_network_s_and_the_shared_beginning_changes_nothing(
    laboratory: Laboratory,
) -> None:
    """Rows that begin like the network's give the error of the whole row computed from the images."""
    run = laboratory.train("resnet20", 0)
    pictures = TestImages(laboratory, run, 300)
    patient = BlockAblation(laboratory, run, pictures)
    labels = torch.cat(pictures.labels)
    images = torch.cat(pictures.batches(run))
    with torch.inference_mode():
        whole = (run.trained.network(images).argmax(1) != labels).double().mean().item()
        row = patient.without([5])
        logits = patient.anatomy.head(run_blocks(row, patient.anatomy.stem(images)))
    other = (logits.argmax(1) != labels).double().mean().item()
    assert len(pictures.labels) > 1
    assert patient.errors([patient.anatomy.blocks, row]) == pytest.approx(
        [whole, other], abs=2 / len(labels)
    )


def test_all_paths_together_are_the_gradient() -> None:
    """Over all 2^9 subsets of blocks, in float64."""
    anatomy = NetworkParts.of(network("resnet20").double())
    images, labels = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([1, 2])
    backward = PathGradients(anatomy, images, labels)
    subsets = [set(s) for length in range(10) for s in itertools.combinations(range(9), length)]
    summed = torch.stack([backward.through(kept) for kept in subsets]).sum(dim=0)
    x = anatomy.stem(images).detach().requires_grad_()
    loss = nn.functional.cross_entropy(
        anatomy.head(run_blocks(anatomy.blocks, x)), labels, reduction="sum"
    )
    assert torch.allclose(summed, torch.autograd.grad(loss, x)[0], atol=1e-10)
    assert len(subsets) == 512


def test_lengths_of_paths_are_binomial() -> None:
    """The paper's 54 blocks: its 19 to 35 hold more than 95 %, as do 20 to 34, and nothing shorter does."""
    shares = share_of_paths(54)
    low, high = usual_lengths(54)
    assert (low, high) == (20, 34)
    assert shares.sum() == pytest.approx(1)
    assert binom.cdf(high, 54, 0.5) - binom.cdf(low - 1, 54, 0.5) >= 0.95
    assert shares[low + 1 : high].sum() < 0.95


@pytest.mark.parametrize(
    ("wanted", "interval"), [(0.5, (1, 1)), (0.8, (1, 2)), (0.9, (0, 2)), (1.0, (0, 3))]
)
def test_the_shortest_interval_holds_what_is_wanted(
    wanted: float, interval: tuple[int, int]
) -> None:
    """And is not longer than it must be."""
    assert shortest_interval(np.array([1.0, 5.0, 3.0, 1.0]), wanted) == interval


def test_an_experiment_leaves_its_files_and_measures_once(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    """The second time the kept figures are read: other figures in their place are what comes out."""
    page = write_experiment_report(lesions.perform(laboratory, 20, [0], 40, 2), tmp_path)
    figures = {path.stem for path in (page.parent / "figures").iterdir()}
    assert figures == {"deleted-alone", "deleted-many", "swapped", "path-gradients", "path-shares"}
    lines = {
        path.stem: len(path.read_text().splitlines()) - 1
        for path in (page.parent / "tables").iterdir()
    }
    assert lines == {
        "deleted-alone": 2 * 10,
        "deleted-many": 2 * 7 * 2,
        "swapped": 2 * 4 * 2,
        "paths": 10,
    }
    text = (page.parent / "report.md").read_text()
    assert "measured on 40 test images" in text
    assert "mean over 64 test images" in text
    assert "number of blocks deleted; bands" in text
    for path in (laboratory.runs / ".measurements").glob("lesions-alone-*.json"):
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"measured": [0.25] + [0.375] * 9})
        )
    assert (
        "in the median, to 37.5 %" in lesions.perform(laboratory, 20, [0], 40, 2).verdicts[0].text
    )


def test_a_person_may_stop_it(laboratory: Laboratory) -> None:
    """Between two lesions; the trainings are there already."""
    for name in ("plain20", "resnet20"):
        laboratory.train(name, 0)
    stopping = Laboratory(
        laboratory.wish, laboratory.runs, laboratory.display, laboratory.process, lambda: True
    )
    with pytest.raises(InterruptedRunError, match="stopped while measuring"):
        lesions.perform(stopping, 20, [0], 31, 1)
