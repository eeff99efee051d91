"""`experiment`: the residual-learning experiments, one command each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from model_store.command_line import CommandGroup
from model_store.errors import ModelStoreError
from training.commands.experiment_options import (
    OddNumber,
    depth_option,
    depths_option,
    experiment_options,
    images_option,
    seeds_option,
    steps_option,
)
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.experiments.experiment_report import ExperimentReport
    from training.experiments.laboratory import Laboratory


@click.group(cls=CommandGroup, expected=(TrainingError, ModelStoreError))
def experiment() -> None:
    """Repeat the experiments of residual learning on your own data.

    \b
    python -m training experiment degradation --data cifar10 --seeds 0,1

    Each experiment trains its networks by one recipe and writes a report under OUT/NAME:
    index.html, report.md, the figures (SVG) and the numbers (CSV). Experiments share networks,
    so each network is trained once. Run the same command again to resume an interrupted experiment.
    """


@experiment.command()
@experiment_options
@depths_option("20,56")
@seeds_option("0,1")
def degradation(
    laboratory: Laboratory, depths: Sequence[int], seeds: Sequence[int]
) -> ExperimentReport:
    """Compare plain and residual networks of several depths.

    Source: He et al. 2015, figures 1 and 6.
    """
    from training.experiments import degradation as degradation_experiment

    return degradation_experiment.run_experiment(laboratory, sorted(depths), seeds)


@experiment.command()
@experiment_options
@depth_option(20)
@click.option(
    "--deeper",
    type=click.IntRange(8),
    default=56,
    show_default=True,
    help="Number of layers of the constructed network.",
)
@steps_option("--steps", 40, "Steps for which constructed networks are trained further.")
@steps_option("--copy-steps", 60, "Steps for which stacks are trained to copy.")
@seeds_option("0")
def identity(
    laboratory: Laboratory,
    depth: int,
    deeper: int,
    steps: int,
    copy_steps: int,
    seeds: Sequence[int],
) -> ExperimentReport:
    """Construct a deeper network, and train layers to copy.

    Source: He et al. 2015, section 1.
    """
    from training.experiments import identity as identity_experiment

    return identity_experiment.run_experiment(laboratory, depth, deeper, seeds, steps, copy_steps)


@experiment.command()
@experiment_options
@depths_option("20,56")
@images_option(2000)
@seeds_option("0,1")
def responses(
    laboratory: Laboratory, depths: Sequence[int], seeds: Sequence[int], images: int
) -> ExperimentReport:
    """Measure how strongly each layer responds.

    Source: He et al. 2015, figure 7.
    """
    from training.experiments import responses as responses_experiment

    return responses_experiment.run_experiment(laboratory, sorted(depths), seeds, images)


@experiment.command()
@experiment_options
@depth_option(56)
@images_option(1000)
@click.option(
    "--draws",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Random deletions, orders and paths of each size.",
)
@seeds_option("0")
def ablation(
    laboratory: Laboratory, depth: int, seeds: Sequence[int], images: int, draws: int
) -> ExperimentReport:
    """Delete and swap blocks of trained networks.

    Also measures the gradient by path length. Source: Veit et al. 2016.
    """
    from training.experiments import ablation as ablation_experiment

    return ablation_experiment.run_experiment(laboratory, depth, seeds, images, draws)


def _hidden_alias(command: click.Command, name: str) -> click.Command:
    alias = copy.copy(command)
    alias.name, alias.hidden = name, True
    return alias


experiment.add_command(_hidden_alias(ablation, "lesions"))  # its former name


@experiment.command()
@experiment_options
@depth_option(20)
@seeds_option("0,1")
def shortcuts(laboratory: Laboratory, depth: int, seeds: Sequence[int]) -> ExperimentReport:
    """Compare five kinds of shortcuts.

    None, options A, B and C, and pre-activation. Source: He et al. 2015 and 2016.
    """
    from training.experiments import shortcuts as shortcuts_experiment

    return shortcuts_experiment.run_experiment(laboratory, depth, seeds)


@experiment.command()
@experiment_options
@depths_option("20,56")
@steps_option("--steps", 100, "First training steps whose gradients are measured.")
@click.option(
    "--grid",
    "points",
    type=OddNumber(3, 101),
    default=11,
    show_default=True,
    help="Points on each side of the loss surface.",
)
@seeds_option("0")
def gradients(
    laboratory: Laboratory, depths: Sequence[int], steps: int, points: int, seeds: Sequence[int]
) -> ExperimentReport:
    """Measure gradients and the loss surface.

    Gradient norms by layer in the first steps, and the loss around trained weights. Source:
    He et al. 2015 and Li et al. 2018.
    """
    from training.experiments import gradients as gradients_experiment

    return gradients_experiment.run_experiment(laboratory, sorted(depths), seeds, steps, points)
