"""`experiment`: the residual-learning laboratory, a command an experiment."""

import functools
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from training.commands.options import (
    DATA_DIR,
    DEVICE,
    DIRECTORY,
    RUNS,
    SEED,
    THREADS,
    TrainingGroup,
    add_options,
    interruptible,
)
from training.commands.run import join_processes
from training.display import TrainingDisplay
from training.errors import InterruptedRunError, RunError
from training.experiments import ablation as lesions_experiment
from training.experiments import degradation as degradation_experiment
from training.experiments import gradients as gradients_experiment
from training.experiments import identity as identity_experiment
from training.experiments import responses as responses_experiment
from training.experiments import shortcuts as shortcuts_experiment
from training.experiments.experiment_report import Report, write_experiment_report
from training.experiments.laboratory import RECIPE, Laboratory
from training.run.request import RunRequest


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them, each one once."""

    name = "NUMBERS"

    def __init__(self, each: click.IntRange) -> None:
        self._each = each

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """`20,56` as (20, 56)."""
        if isinstance(value, tuple):
            return value
        numbers = tuple(int(self._each(word.strip(), param, ctx)) for word in str(value).split(","))
        if len(set(numbers)) < len(numbers):
            self.fail(f"{value!r} names a number twice", param, ctx)
        return numbers


@click.group(cls=TrainingGroup)
def experiment() -> None:
    """Show what residual learning claims on your own data, with the paper's figures.

    Each experiment trains what it needs, by one recipe for all its networks, and writes a report: OUT/NAME/index.html, report.md,
    and the figures (SVG) and numbers (CSV) in them. Networks are trained once: experiments share them, and what was cut goes on
    when you type the same again.

    \b
    python -m training experiment degradation --data cifar10 --depths 20,56 --seeds 0,1
    """


class OddNumber(click.IntRange):
    """A whole number whose half has a middle."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """`11` as 11."""
        number = int(super().convert(value, param, ctx))
        if number % 2 == 0:
            self.fail(
                f"{number} is even: only an odd number of points has one at the centre", param, ctx
            )
        return number


def experiment_options(command: Callable[..., Report]) -> Callable[..., None]:
    """What every experiment asks for; the command gets the laboratory in its place, and gives the report that is written."""

    @functools.wraps(command)
    def performed(
        console: Console,
        data: tuple[str, ...],
        data_dir: Path | None,
        image_size: int | None,
        recipe: str,
        epochs: int | None,
        changes: tuple[str, ...],
        precision: Any,
        runs: Path,
        out: Path,
        device: str,
        threads: int | None,
        **values: Any,
    ) -> None:
        if epochs:
            changes = (*changes, f"epochs={epochs}")
        wish = RunRequest(
            data,
            recipe=recipe,
            changes=changes,
            image_size=image_size,
            data_dir=data_dir,
            precision=precision,
            golden_samples=0,
        )
        with (
            join_processes(device, threads) as process,
            TrainingDisplay(console) as display,
            interruptible(process) as interrupted,
        ):
            if process.is_distributed:
                raise RunError("an experiment is for one process: start it without torchrun")
            with telling_the_way_on(display):
                report = command(Laboratory(wish, runs, display, process, interrupted), **values)
            page = write_experiment_report(report, out)
            for verdict in report.verdicts:
                display.say(f"{verdict.word}: {verdict.text}")
            display.say(f"the report: {page}")

    return add_options(
        click.pass_obj(performed),
        click.option(
            "--data",
            multiple=True,
            required=True,
            help="digits, fashion-mnist, cifar10, cifar100, a folder of folders of images, or a CSV of path,label.",
        ),
        click.option(
            "--image-size",
            type=click.IntRange(8, 1024),
            help="The input's side.  [default: as the data or the network]",
        ),
        click.option(
            "--recipe",
            default=RECIPE,
            show_default=True,
            help="One for all networks; `recipes` lists them.",
        ),
        click.option(
            "--epochs",
            type=click.IntRange(min=1),
            help="Instead of the recipe's; its schedule keeps its shape.",
        ),
        click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="NAME=VALUE",
            help="One of the recipe's values. May be repeated.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16"]),
            default="auto",
            show_default=True,
            help="auto takes bf16 where the hardware multiplies it.",
        ),
        click.option(
            "--out",
            type=DIRECTORY,
            default=Path("experiments"),
            show_default=True,
            help="Where the report goes.",
        ),
        RUNS,
        DATA_DIR,
        DEVICE,
        THREADS,
    )


def seeds_option(default: str) -> Callable[..., Any]:
    """The seeds to train with."""
    return click.option(
        "--seeds",
        type=Numbers(SEED),
        default=default,
        show_default=True,
        help="Each network is trained with each.",
    )


def depths_option(default: str) -> Callable[..., Any]:
    """The depths to compare, from shallow to deep."""
    return click.option(
        "--depths",
        type=Numbers(click.IntRange(8)),
        default=default,
        show_default=True,
        help="Layers, as in resnet20.",
    )


def depth_option(default: int) -> Callable[..., Any]:
    """The depth of the networks."""
    return click.option(
        "--depth",
        type=click.IntRange(8),
        default=default,
        show_default=True,
        help="Layers, as in resnet20.",
    )


def images_option(default: int) -> Callable[..., Any]:
    """How many test images measure."""
    return click.option(
        "--images",
        type=click.IntRange(1),
        default=default,
        show_default=True,
        help="Test images; fewer where there are fewer.",
    )


def steps_option(name: str, default: int, said: str) -> Callable[..., Any]:
    """How long a measurement trains."""
    return click.option(
        name, type=click.IntRange(1, 10_000), default=default, show_default=True, help=said
    )


@experiment.command()
@experiment_options
@depths_option("20,56")
@seeds_option("0,1")
def degradation(laboratory: Laboratory, depths: Sequence[int], seeds: Sequence[int]) -> Report:
    """Plain and residual networks of several depths: does more depth train worse? (He et al. 2015, figures 1 and 6)."""
    return degradation_experiment.perform(laboratory, sorted(depths), seeds)


@experiment.command()
@experiment_options
@depth_option(20)
@click.option(
    "--deeper",
    type=click.IntRange(8),
    default=56,
    show_default=True,
    help="Layers of the network built from it.",
)
@steps_option("--steps", 40, "Steps that the built networks train on.")
@steps_option("--copy-steps", 60, "Steps in which stacks learn to copy.")
@seeds_option("0")
def identity(
    laboratory: Laboratory,
    depth: int,
    deeper: int,
    steps: int,
    copy_steps: int,
    seeds: Sequence[int],
) -> Report:
    """A deeper network that copies a shallower one, and layers that learn to copy (He et al. 2015, section 1)."""
    return identity_experiment.perform(laboratory, depth, deeper, seeds, steps, copy_steps)


@experiment.command()
@experiment_options
@depths_option("20,56")
@images_option(2000)
@seeds_option("0,1")
def responses(
    laboratory: Laboratory, depths: Sequence[int], seeds: Sequence[int], images: int
) -> Report:
    """How strongly each layer of plain and residual networks answers (He et al. 2015, figure 7)."""
    return responses_experiment.perform(laboratory, sorted(depths), seeds, images)


@experiment.command()
@experiment_options
@depth_option(56)
@images_option(1000)
@click.option(
    "--draws",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Random lesions, orders and paths of each size.",
)
@seeds_option("0")
def lesions(
    laboratory: Laboratory, depth: int, seeds: Sequence[int], images: int, draws: int
) -> Report:
    """Blocks deleted and swapped after training, and the paths that carry the gradient (Veit et al. 2016)."""
    return lesions_experiment.perform(laboratory, depth, seeds, images, draws)


@experiment.command()
@experiment_options
@depth_option(20)
@seeds_option("0,1")
def shortcuts(laboratory: Laboratory, depth: int, seeds: Sequence[int]) -> Report:
    """No shortcut, option A, B, C, and pre-activation, side by side (He et al. 2015, section 4.1; He et al. 2016)."""
    return shortcuts_experiment.perform(laboratory, depth, seeds)


@experiment.command()
@experiment_options
@depths_option("20,56")
@steps_option("--steps", 100, "First steps whose gradients are measured.")
@click.option(
    "--grid",
    "points",
    type=OddNumber(3, 101),
    default=11,
    show_default=True,
    help="Points of the surface's side.",
)
@seeds_option("0")
def gradients(
    laboratory: Laboratory, depths: Sequence[int], steps: int, points: int, seeds: Sequence[int]
) -> Report:
    """Gradient norms by layer in the first steps, and the loss around trained weights (Li et al. 2018)."""
    return gradients_experiment.perform(laboratory, sorted(depths), seeds, steps, points)


@contextmanager
def telling_the_way_on(display: TrainingDisplay) -> Iterator[None]:
    """An interrupted experiment ends with the command that goes on with it, and exit code 130."""
    try:
        yield
    except InterruptedRunError as stopped:
        display.say(f"{stopped}\ngo on with: python -m training {shlex.join(sys.argv[1:])}")
        sys.exit(130)
