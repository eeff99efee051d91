"""What only looks: at data, recipes, runs, the learning rate, a run's report."""

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from model_store.store import ModelStore
from training.commands.options import (
    DATA_DIR,
    DEVICE,
    RUN,
    RUNS,
    THREADS,
    WORKERS,
    training_options,
)
from training.commands.run import join_processes
from training.data.check import check as check_images
from training.data.check_table import check_table
from training.data.scan import scan
from training.data.sources import load_data
from training.display import TrainingDisplay, rate_table
from training.errors import DataError
from training.learning.rate_finder import find_rate as find_rate_of
from training.learning.recipe import known_recipes
from training.reports.comparison import compare as compare_runs
from training.reports.comparison import comparison_table, runs_table
from training.reports.run_report import write_run_report
from training.run.data import open_run_data
from training.run.directory import RunDirectory
from training.run.request import RunRequest, begin
from training.steps.training_setup import prepare_training

EXAMPLES = 5


@click.command()
@click.argument("data")
@DATA_DIR
@WORKERS
@click.option("--all", "everything", is_flag=True, help="Name every file, not some of each kind.")
@click.option(
    "--json",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write every finding to this file.",
)
@click.pass_obj
def check(
    console: Console,
    data: str,
    data_dir: Path | None,
    workers: int,
    target: Path | None,
    *,
    everything: bool,
) -> None:
    """Look at the pictures before anything is trained: unreadable files, duplicates, classes that are too small, and the like.

    Changes nothing. Exit code 1 where a run would refuse the data.
    """
    images = load_data(data, data_dir)
    with TrainingDisplay(console) as display:
        facts = scan(images, workers=workers, progress=display.count("checking")).facts
    findings = check_images(images, facts)
    console.print(check_table(findings, limit=None if everything else EXAMPLES))
    if target:
        target.write_text(json.dumps(findings.to_json(), indent=2) + "\n", encoding="utf-8")
    if findings.fatal:
        raise DataError(f"{images.name} can not be trained on: {'; '.join(findings.fatal)}")


@click.command()
@RUNS
@click.pass_obj
def runs(console: Console, runs: Path) -> None:
    """List the runs, newest first: what was trained, how far it came, how good it is."""
    console.print(runs_table(runs))


@click.command()
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="RUN...",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("comparison.html"),
    show_default=True,
)
@click.pass_obj
def compare(console: Console, runs: tuple[Path, ...], out: Path) -> None:
    """Draw runs over each other, and say what differs and whether the difference is more than chance."""
    directories = [RunDirectory(path) for path in runs]
    console.print(comparison_table(directories))
    TrainingDisplay(console).say(f"drawn over each other: {compare_runs(directories, out)}")


@click.command()
@RUN
@click.pass_obj
def report(console: Console, run: Path) -> None:
    """Write the run's report.html anew: curves, confusion matrix, worst mistakes, likely wrong labels, calibration."""
    directory = RunDirectory(run)
    with TrainingDisplay(console) as display:
        written = write_run_report(
            directory, open_run_data(directory, display.count("reading")), display.count("looking")
        )
    TrainingDisplay(console).say(f"written: {written}")


@click.command()
@click.pass_obj
def recipes(console: Console) -> None:
    """List the recipes that ship with the project."""
    table = Table("recipe", "what it is for")
    for name, purpose in known_recipes().items():
        table.add_row(name, purpose)
    console.print(table)


@click.command(name="find-lr")
@training_options
@click.option(
    "--steps",
    type=click.IntRange(min=10),
    default=100,
    show_default=True,
    help="From the lowest rate to the highest.",
)
@DEVICE
@THREADS
@click.pass_obj
def find_rate(
    console: Console, wish: RunRequest, runs: Path, steps: int, device: str, threads: int | None
) -> None:
    """Find a learning rate: raise it step by step until the loss runs away; nothing that was learned is kept."""
    directory = begin(wish, runs, ModelStore())
    with join_processes(device, threads) as process, TrainingDisplay(console) as display:
        data = open_run_data(directory, display.count("checking"))
        learner, loader, _ = prepare_training(directory, data, process)
        curve = find_rate_of(learner, loader, steps, progress=display.count("raising the rate"))
    directory.write_json("rates.json", {**asdict(curve), "suggested": curve.suggested})
    console.print(rate_table(curve))
    advice = f"--set optimizer.learning_rate={curve.suggested:.2g}"
    TrainingDisplay(console).say(
        f"the loss is lowest at {curve.suggested * 10:.2g}; train with a tenth of it: {advice}"
    )
