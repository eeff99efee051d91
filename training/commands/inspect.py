"""Commands that look at data, recipes and runs: check, runs, compare, report, recipes, find-lr."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from model_store.command_line import as_called, echo_json, format_command, json_option
from model_store.open_store import StoreLocation, open_store
from training.commands.compute_options import WORKERS, ComputeOptions, compute_options
from training.commands.early_checks import check_output_file, check_run
from training.commands.options import (
    DATA_DIR,
    EXISTING_RUN,
    RUN,
    RUNS,
    STORE,
    pass_console,
    training_options,
)
from training.data.check import check as check_images
from training.data.check_table import FINDING_EXAMPLES, MAX_CLASSES, classes_table
from training.data.decode_workers import decode_threads
from training.data.file_name_labels import write_labels
from training.data.scan import scan
from training.data.sources import load_data, resolve_source
from training.errors import DataError
from training.learning.recipe_file import known_recipes

if TYPE_CHECKING:
    from training.run.request import RunRequest


@click.command()
@click.argument("data")
@DATA_DIR
@WORKERS
@click.option(
    "--all/--no-all",
    "show_all",
    default=False,
    help=f"List every class, and every file instead of {FINDING_EXAMPLES} of each finding.",
)
@click.option(
    "--labels-from-names",
    "labels_file",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=check_output_file,
    help="First write the labels in file names such as cat.0.jpg to this new CSV, and check that.",
)
@click.option(
    "--json",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=check_output_file,
    help="Also write all findings to this file.",
)
@pass_console
def check(
    console: Console,
    data: str,
    data_dir: Path | None,
    workers: int | None,
    target: Path | None,
    labels_file: Path | None,
    *,
    show_all: bool,
) -> None:
    """Check data before training: classes, unreadable files, duplicates. Changes nothing.

    \b
    python -m training check PICTURES

    The exit code is 1 if a run would refuse the data.
    """
    source = resolve_source(data, data_dir)
    from training.commands.common import print_next
    from training.display import TrainingDisplay

    display = TrainingDisplay(console)
    if labels_file:
        if not Path(source).is_dir():
            raise DataError(f"--labels-from-names needs a folder of images, got {data}")
        named = write_labels(Path(source), labels_file)
        display.say(
            f"written: {labels_file}, {named.labelled:,} images; {named.others:,} have no label in "
            "their name"
        )
        data = str(labels_file)
        source = resolve_source(data)
    images = load_data(source, data_dir)
    with display:
        threads, progress = decode_threads(workers), display.count("checking")
        facts = scan(images, workers=threads, progress=progress).facts
    findings = check_images(images, facts)
    console.print(classes_table(findings, limit=None if show_all else MAX_CLASSES))
    display.show_findings(findings, None if show_all else FINDING_EXAMPLES)
    if target:
        target.write_text(json.dumps(findings.to_json(), indent=2) + "\n", encoding="utf-8")
    if findings.fatal:
        raise DataError(f"{images.name} cannot be trained on: {'; '.join(findings.fatal)}")
    print_next(display, "training run", "--data", data)


@click.command()
@RUNS
@json_option
@pass_console
def runs(console: Console, runs: Path, *, as_json: bool) -> None:
    """List the runs, newest first, with their state and accuracy.

    \b
    python -m training runs
    """
    from training.commands.common import print_next, print_next_step
    from training.display import TrainingDisplay
    from training.reports.run_list import list_runs, runs_table, summarize_run

    display, paths = TrainingDisplay(console), list_runs(runs)
    summaries = [summarize_run(path) for path in paths]
    if as_json:
        echo_json([asdict(summary) for summary in summaries])
        return
    if not paths:
        display.say(f"there are no runs in {runs} yet")
        print_next(display, "training run", "--runs", runs)
        return
    console.print(runs_table(summaries))
    print_next_step(display, paths[0])


@click.command()
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    type=EXISTING_RUN,
    callback=check_run,
    metavar="RUN...",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=check_output_file,
    default=Path("comparison.html"),
    show_default=True,
    help="The page to write.",
)
@pass_console
def compare(console: Console, runs: tuple[Path, ...], out: Path) -> None:
    """Compare runs: curves, different values, and whether their accuracies differ by chance.

    \b
    python -m training compare runs/FIRST runs/SECOND
    """
    from training.commands.common import print_next_step
    from training.display import TrainingDisplay
    from training.reports.comparison import (
        comparison_table,
        read_compared,
        untested_pairs,
        write_comparison,
    )
    from training.run.directory import Run

    display, compared = TrainingDisplay(console), read_compared([Run.open(path) for path in runs])
    console.print(comparison_table(compared))
    for reason in untested_pairs(compared):
        display.say(reason)
    display.say(f"written: {write_comparison(compared, out)}")
    best = max(compared, key=lambda each: each.history.best["validation_top1"])
    print_next_step(display, best.run.path)


@click.command()
@RUN
@pass_console
def report(console: Console, run: Path) -> None:
    """Write the report of a run: curves, confusion matrix, mistakes, likely wrong labels.

    \b
    python -m training report runs/RUN
    """
    from training.commands.common import print_next_step
    from training.display import TrainingDisplay
    from training.reports.run_report import write_run_report
    from training.run.data import open_run_data
    from training.run.directory import Run

    opened, display = Run.open(run), TrainingDisplay(console)
    with display:
        data = open_run_data(opened, display.count("reading"))
        written = write_run_report(opened, data, display.count("report"))
    display.say(f"written: {written}")
    print_next_step(display, run)


@click.command()
@pass_console
def recipes(console: Console) -> None:
    """List the built-in recipes.

    \b
    python -m training recipes
    """
    table = Table("recipe", "purpose")
    for name, purpose in known_recipes().items():
        table.add_row(name, purpose)
    console.print(table)
    words = (*as_called("training run").split(), "--data", "DATA", "--recipe", "RECIPE")
    console.print(format_command("next", words, console.width), soft_wrap=True, highlight=False)


@click.command(name="find-lr")
@training_options
@click.option(
    "--steps",
    type=click.IntRange(min=10),
    default=100,
    show_default=True,
    help="Number of steps from the lowest rate to the highest.",
)
@STORE
@compute_options
@pass_console
def find_rate(
    console: Console,
    request: RunRequest,
    runs: Path,
    steps: int,
    store: StoreLocation,
    compute: ComputeOptions,
) -> None:
    """Find a learning rate: raise it until the loss diverges. The weights are not kept.

    \b
    python -m training find-lr --data PICTURES
    """
    from training.commands.common import join_processes, print_next_run
    from training.display import TrainingDisplay
    from training.learning.rate_finder import find_rate as find_rate_of
    from training.run.data import open_run_data
    from training.run.request import start_run
    from training.steps.training_setup import prepare_training
    from training.steps.worker_choice import choose_workers
    from training.tables import rate_table

    run, images = start_run(request, runs, open_store(store))
    display = TrainingDisplay(console)
    with join_processes(compute) as process, display:
        data = open_run_data(run, display.count("checking"), process, images=images)
        workers, chosen = choose_workers(run, data, process)
        if chosen:
            display.say(chosen)
        learner, loader, _ = prepare_training(run, data, process, workers)
        curve = find_rate_of(learner, loader, steps, progress=display.count("raising the rate"))
    run.write_json("rates.json", {**asdict(curve), "suggested": curve.suggested})
    console.print(rate_table(curve))
    display.say(f"the loss is lowest at {curve.suggested * 10:.2g}; train with a tenth of it")
    rate = f"optimizer.learning_rate={curve.suggested:.2g}"
    print_next_run(display, run, store, "--set", rate)
