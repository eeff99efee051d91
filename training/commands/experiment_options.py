"""The options of the experiments, and the steps that all experiments share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console

from model_store.command_line import as_called
from training.commands.compute_options import ComputeOptions, compute_options
from training.commands.early_checks import check_recipe, check_sources
from training.commands.geometry_options import IMAGE_SIZE, RESIZE_MODE
from training.commands.options import (
    CHANGES,
    DATA_DIR,
    DIRECTORY,
    EPOCHS,
    PRECISION,
    RUNS,
    SEED,
    add_options,
    build_request,
    pass_console,
)
from training.errors import InterruptedRunError, RunError
from training.learning.recipe_file import EXPERIMENT_RECIPE

if TYPE_CHECKING:
    from training.display import TrainingDisplay
    from training.experiments.experiment_report import ExperimentReport


EXPERIMENTS: Final = (
    "degradation",
    "identity",
    "responses",
    "ablation",
    "shortcuts",
    "gradients",
)
"""The experiments in their recommended order."""


class NumberList(click.ParamType[tuple[int, ...]]):
    """Distinct integers, separated by commas."""

    name = "NUMBERS"

    def __init__(self, item: click.IntRange) -> None:
        self._item = item

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Parse `20,56` as (20, 56)."""
        if isinstance(value, tuple):
            return value
        numbers = tuple(int(self._item(word.strip(), param, ctx)) for word in str(value).split(","))
        if len(set(numbers)) < len(numbers):
            self.fail(f"{value!r} repeats a number", param, ctx)
        return numbers


class OddNumber(click.IntRange):
    """An odd integer."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse `11` as 11."""
        number = int(super().convert(value, param, ctx))
        if number % 2 == 0:
            self.fail(f"{number} must be odd, so that one point is the centre", param, ctx)
        return number


def experiment_options(command: Callable[..., ExperimentReport]) -> Callable[..., None]:
    """Add the options of every experiment to a function that returns its report.

    The function receives the `Laboratory` and the values of its own options.
    """

    @functools.wraps(command)
    def run(
        console: Console,
        runs: Path,
        out: Path,
        compute: ComputeOptions,
        **values: Any,
    ) -> None:
        check_sources(values["data"], values["data_dir"])
        from training.commands.common import interruptible, join_processes, print_next
        from training.display import TrainingDisplay
        from training.experiments.experiment_report import write_experiment_report
        from training.experiments.laboratory import Laboratory
        from training.experiments.run_description import experiment_words

        request = build_request(values, golden_samples=0).resolved()
        with (
            join_processes(compute) as process,
            TrainingDisplay(console) as display,
            interruptible(process) as interrupted,
        ):
            if process.is_distributed:
                raise RunError("An experiment runs in one process. Start it without torchrun.")
            with print_resume_command(display):
                report = command(Laboratory(request, runs, display, process, interrupted), **values)
            page = write_experiment_report(report, out)
            for verdict in report.verdicts:
                display.say(f"{verdict.word}: {verdict.text}")
            display.say(f"report: {page}")
            uri = page.absolute().as_uri()
            display.say_command("open it with", "python", "-m", "webbrowser", uri)
            if following := following_experiment(report.name, out):
                words = experiment_words(request, following, paths=True)
                places = ("--out", out, "--runs", runs)
                print_next(display, "training experiment", *words, *places)
            else:
                display.say(f"every experiment has a report in {out}")

    return add_options(
        compute_options(pass_console(run)),
        click.option(
            "--data",
            multiple=True,
            required=True,
            help="digits, fashion-mnist, cifar10, cifar100, a folder with one folder of images per "
            "class, or a CSV file with the columns path,label.",
        ),
        IMAGE_SIZE,
        RESIZE_MODE,
        click.option(
            "--recipe",
            default=EXPERIMENT_RECIPE,
            callback=check_recipe,
            show_default=True,
            help="Recipe of all networks; `recipes` lists them.",
        ),
        EPOCHS,
        CHANGES,
        PRECISION,
        click.option(
            "--out",
            type=DIRECTORY,
            default=Path("experiments"),
            show_default=True,
            help="Folder of the reports.",
        ),
        RUNS,
        DATA_DIR,
    )


def following_experiment(name: str, out: Path) -> str | None:
    """The next experiment without a report in `out`; None if all have one."""
    after = EXPERIMENTS.index(name) + 1
    others = (*EXPERIMENTS[after:], *EXPERIMENTS[: after - 1])
    return next((each for each in others if not (out / each / "index.html").exists()), None)


def seeds_option(default: str) -> Callable[..., Any]:
    return click.option(
        "--seeds",
        type=NumberList(SEED),
        default=default,
        show_default=True,
        help="Each network is trained with each seed.",
    )


def depths_option(default: str) -> Callable[..., Any]:
    return click.option(
        "--depths",
        type=NumberList(click.IntRange(8)),
        default=default,
        show_default=True,
        help="Numbers of layers, as in resnet20.",
    )


def depth_option(default: int) -> Callable[..., Any]:
    return click.option(
        "--depth",
        type=click.IntRange(8),
        default=default,
        show_default=True,
        help="Number of layers, as in resnet20.",
    )


def images_option(default: int) -> Callable[..., Any]:
    return click.option(
        "--images",
        type=click.IntRange(1),
        default=default,
        show_default=True,
        help="Number of test images to measure on, at most the whole test split.",
    )


def steps_option(name: str, default: int, description: str) -> Callable[..., Any]:
    return click.option(
        name, type=click.IntRange(1, 10_000), default=default, show_default=True, help=description
    )


@contextmanager
def print_resume_command(display: TrainingDisplay) -> Iterator[None]:
    """End an interrupted experiment with the command that resumes it and exit code 130."""
    try:
        yield
    except InterruptedRunError as error:
        display.say(str(error))
        display.say_command("resume with", *as_called("training").split(), *sys.argv[1:])
        sys.exit(130)
