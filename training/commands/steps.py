"""One command per step of a run: train, evaluate, calibrate, export, gate, publish."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from model_store.open_store import StoreLocation, open_store
from training.commands.compute_options import ComputeOptions, compute_options
from training.commands.early_checks import check_run
from training.commands.options import (
    EXISTING_RUN,
    PROMOTE,
    RUN,
    SIGN_KEY,
    STORE,
    pass_console,
    training_options,
    waive_option,
)
from training.gates.waivers import RUN_CHECKS

if TYPE_CHECKING:
    from model_store.signature import SigningKey
    from training.display import TrainingDisplay
    from training.learning.distributed import DistributedProcess
    from training.run.data import RunData
    from training.run.directory import Run
    from training.run.request import RunRequest


@click.command()
@training_options
@STORE
@compute_options
@pass_console
def train(
    console: Console, request: RunRequest, runs: Path, store: StoreLocation, compute: ComputeOptions
) -> None:
    """Start a run and train it.

    \b
    python -m training train --data PICTURES --arch resnet20
    """
    from training.commands.common import (
        interruptible,
        join_processes,
        open_display,
        print_next,
        print_resume_command,
        print_start_changes,
    )
    from training.run.data import open_run_data
    from training.run.launch import start_shared_run
    from training.steps.train import train as train_run

    with join_processes(compute) as process:
        run, images = start_shared_run(request, runs, open_store(store), process)
        with (
            open_display(console, process, run) as display,
            interruptible(process) as interrupted,
        ):
            data = open_run_data(run, display.count("checking"), process, images=images)
            display.show_data(data)
            print_start_changes(display, run)
            with print_resume_command(display, run, store):
                train_run(run, data, display, process, interrupted)
            print_next(display, "training evaluate", run.path)


@click.command()
@RUN
@compute_options
@pass_console
def evaluate(console: Console, run: Path, compute: ComputeOptions) -> None:
    """Measure a trained run on its test split, once.

    \b
    python -m training evaluate runs/RUN
    """
    from training.commands.common import describe_accuracy, join_processes, print_next
    from training.steps.evaluate import evaluate as evaluate_run

    with (
        join_processes(compute) as process,
        _opened(console, run, process) as (opened, data, display),
    ):
        evaluate_run(opened, data, process)
        display.say(describe_accuracy(opened))
        print_next(display, "training calibrate", run)


@click.command()
@RUN
@click.option(
    "--twin",
    type=EXISTING_RUN,
    callback=check_run,
    help="A run of the same recipe whose calibration to use, if RUN has learn_validation=true.",
)
@compute_options
@pass_console
def calibrate(console: Console, run: Path, twin: Path | None, compute: ComputeOptions) -> None:
    """Fit temperature, energy threshold and prediction sets on validation; measure them on test.

    \b
    python -m training calibrate runs/RUN

    The model abstains on images above the energy threshold (about 3 % of validation). Prediction
    sets have coverages of 0.8, 0.9 and 0.95. `publish` puts the values into the version; versions
    that are published do not change. For a run that was trained with `learn_validation=true`:

    \b
    python -m training calibrate runs/FINAL --twin runs/CHOSEN
    """
    from training.commands.common import join_processes, print_next
    from training.display import TrainingDisplay
    from training.run.directory import Run
    from training.steps.calibrate import calibrate as calibrate_run
    from training.steps.calibrate import take_calibration

    with join_processes(compute) as process:
        if twin:
            display = TrainingDisplay(console)
            display.show_calibration(take_calibration(Run.open(run), Run.open(twin)))
        else:
            with _opened(console, run, process) as (opened, data, display):
                display.show_calibration(calibrate_run(opened, data, process))
        print_next(display, "training export", run)


@click.command()
@RUN
@pass_console
def export(console: Console, run: Path) -> None:
    """Write the ONNX file, the golden images and the density of a run.

    \b
    python -m training export runs/RUN
    """
    from training.commands.common import print_next
    from training.steps.density import fit_run_density
    from training.steps.export import export as export_run
    from training.steps.golden import write_golden

    with _opened(console, run) as (opened, data, display):
        export_run(opened)
        write_golden(opened, data)
        display.show_density(fit_run_density(opened, data))
        print_next(display, "training gate", run)


@click.command()
@RUN
@STORE
@waive_option(RUN_CHECKS)
@pass_console
def gate(console: Console, run: Path, store: StoreLocation, waivers: dict[str, str]) -> None:
    """Check the export against the trained network and the live version; exit with 1 on failure.

    \b
    python -m training gate runs/RUN --waive latency="a larger network is wanted"
    """
    from training.commands.common import print_next
    from training.gates import gate as gates

    with _opened(console, run) as (opened, data, display):
        checks = gates.gate(opened, data, waivers, open_store(store))
        display.show_checks(checks, gates.read_notices(opened))
        gates.require_passed(checks)
        print_next(display, "training publish", run, "--store", store)


@click.command()
@RUN
@STORE
@SIGN_KEY
@PROMOTE
@pass_console
def publish(
    console: Console,
    run: Path,
    store: StoreLocation,
    signing_key: SigningKey | None,
    *,
    promote: bool,
) -> None:
    """Publish the export of a run as the next version of its model.

    \b
    python -m training publish runs/RUN
    """
    from training.commands.common import print_published
    from training.steps.publish import publish as publish_run

    with _opened(console, run) as (opened, data, display):
        published = publish_run(
            opened, data, open_store(store, signing_key=signing_key), promote=promote
        )
        print_published(display, opened.config.model, published, store)


@contextlib.contextmanager
def _opened(
    console: Console, path: Path, process: DistributedProcess | None = None
) -> Iterator[tuple[Run, RunData, TrainingDisplay]]:
    from training.commands.common import open_display
    from training.learning.distributed import SINGLE_PROCESS
    from training.run.data import open_run_data
    from training.run.directory import Run

    run, process = Run.open(path), process or SINGLE_PROCESS
    with open_display(console, process, run) as display:
        yield run, open_run_data(run, display.count("reading"), process), display
