"""`run`, `resume` and `cross-validate`: commands that do several steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from model_store.open_store import StoreLocation, open_store
from model_store.store import ModelStore
from training.commands.compute_options import ComputeOptions, compute_options
from training.commands.early_checks import check_sources
from training.commands.options import (
    DATA_DIR,
    INT8,
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
    from training.data.sources import ImageSet
    from training.display import TrainingDisplay
    from training.learning.distributed import DistributedProcess
    from training.run.directory import Run
    from training.run.request import RunRequest
    from training.steps.publish import Published


@click.command()
@training_options
@STORE
@SIGN_KEY
@waive_option(RUN_CHECKS)
@PROMOTE
@INT8
@compute_options
@click.option(
    "--prove-resume/--no-prove-resume",
    default=False,
    show_default=True,
    help="First kill and resume a short training on this data, and compare the weights.",
)
@click.option(
    "--ray/--no-ray",
    "on_ray",
    default=False,
    show_default=True,
    help="Train in processes of a Ray cluster: that of RAY_ADDRESS, or a new one on this machine. "
    "All machines must see the current directory. Needs pip install '.[ray]'.",
)
@click.option(
    "--ray-processes",
    type=click.IntRange(min=1),
    help="Number of processes for --ray.  [default: one per GPU of the cluster, or per machine "
    "without GPUs]",
)
@pass_console
def run(
    console: Console,
    request: RunRequest,
    runs: Path,
    store: StoreLocation,
    signing_key: SigningKey | None,
    waivers: dict[str, str],
    compute: ComputeOptions,
    *,
    promote: bool,
    int8: bool,
    prove_resume: bool,
    on_ray: bool,
    ray_processes: int | None,
) -> None:
    """Check the data, train, evaluate, export, gate and publish.

    \b
    python -m training run --data PICTURES --arch resnet20 --model flowers

    On several GPUs:

    \b
    torchrun --nproc-per-node 2 -m -- training run --data PICTURES
    """
    open_store(store).create()

    def train_and_publish(console: Console) -> None:
        from training.commands.common import join_processes
        from training.run.launch import start_shared_run

        opened = open_store(store, signing_key=signing_key)
        with join_processes(compute) as process:
            run, images = start_shared_run(request, runs, opened, process)
            if prove_resume:
                _prove_resume(console, run, process, images)
            finish_run(
                console, run, opened, waivers, process, promote=promote, int8=int8, images=images
            )

    if on_ray:
        from training.run.ray_cluster import run_on_ray

        run_on_ray(lambda: train_and_publish(Console()), ray_processes, runs)
    else:
        train_and_publish(console)


@click.command()
@RUN
@click.option(
    "--data",
    multiple=True,
    help="Where the images are now, if they have moved: every source of the run. Repeatable.",
)
@DATA_DIR
@STORE
@SIGN_KEY
@waive_option(RUN_CHECKS)
@PROMOTE
@INT8
@compute_options
@pass_console
def resume(
    console: Console,
    run: Path,
    data: tuple[str, ...],
    data_dir: Path | None,
    store: StoreLocation,
    signing_key: SigningKey | None,
    waivers: dict[str, str],
    compute: ComputeOptions,
    *,
    promote: bool,
    int8: bool,
) -> None:
    """Continue a run that was stopped, or publish one whose failed checks you waive.

    \b
    python -m training resume runs/RUN --waive accuracy_jpeg="JPEG is not used"
    """
    check_sources(data, data_dir)
    from training.commands.common import join_processes
    from training.run.directory import Run
    from training.run.request import move_data

    model_store = open_store(store, signing_key=signing_key)
    opened = Run.open(run)
    if data or data_dir:
        opened = move_data(opened, data, data_dir)
    with join_processes(compute) as process:
        finish_run(console, opened, model_store, waivers, process, promote=promote, int8=int8)


@click.command(name="cross-validate")
@training_options
@click.option(
    "--folds",
    default=5,
    show_default=True,
    type=click.IntRange(min=2),
    help="Number of parts; each is the test split once.",
)
@STORE
@compute_options
@pass_console
def cross_validate(
    console: Console,
    request: RunRequest,
    runs: Path,
    folds: int,
    store: StoreLocation,
    compute: ComputeOptions,
) -> None:
    """Train once per fold and test each image exactly once. Publishes nothing.

    \b
    python -m training cross-validate --data PICTURES --folds 5
    """
    from training.commands.common import (
        interruptible,
        join_processes,
        open_display,
        print_next_run,
    )
    from training.run.data import open_run_data
    from training.run.launch import start_shared_run
    from training.steps import cross_validation

    with join_processes(compute) as process:
        run, images = start_shared_run(request, runs, open_store(store), process)
        with (
            open_display(console, process, run) as display,
            interruptible(process) as interrupted,
        ):
            data = open_run_data(run, display.count("checking"), process, images=images)
            result = cross_validation.cross_validate(
                run,
                data,
                folds,
                lambda number, progress: display(progress, f"fold {number}/{folds}"),
                process,
                interrupted,
            )
            display.show_cross_validation(result)
            print_next_run(display, run, store)


def finish_run(
    console: Console,
    run: Run,
    store: ModelStore,
    waivers: dict[str, str],
    process: DistributedProcess,
    *,
    promote: bool,
    int8: bool,
    images: ImageSet | None = None,
) -> None:
    """Do all steps that are left, and print the result."""
    from training.commands.common import (
        describe_accuracy,
        interruptible,
        open_display,
        print_published,
        print_resume_command,
        print_start_changes,
    )
    from training.reports.pages import REPORT_FILE
    from training.steps import pipeline

    config = run.config
    with open_display(console, process, run) as display, interruptible(process) as interrupted:
        what = f"{config.architecture} on {', '.join(config.data)}"
        display.say(f"run {run.path}: {what}, recipe {config.recipe_name}, seed {config.seed}")
        print_start_changes(display, run)
        options = ("--int8",) if int8 else ()
        with print_resume_command(display, run, store.location, *options):
            published = pipeline.finish_run(
                run,
                store,
                display,
                waivers,
                promote=promote,
                interrupted=interrupted,
                process=process,
                images=images,
            )
        display.say(describe_accuracy(run))
        if published:
            display.say(f"report: {run.path / REPORT_FILE}")
            if int8:
                published = _add_int8(display, run, store, published, promote=promote)
            print_published(display, config.model, published, store.location)


def _add_int8(
    display: TrainingDisplay, run: Run, store: ModelStore, fp32: Published, *, promote: bool
) -> Published:
    from training.commands.conversion import add_int8

    config = run.config
    data_dir = None if config.data_dir is None else Path(config.data_dir)
    return add_int8(display, store, config.model, fp32, config.data, data_dir, promote=promote)


def _prove_resume(
    console: Console, run: Run, process: DistributedProcess, images: ImageSet | None
) -> None:
    from training.display import TrainingDisplay
    from training.run.data import open_run_data
    from training.steps.resume_proof import prove_resume as prove

    display = TrainingDisplay(console)
    display.announce("prove resume")
    if process.is_distributed:
        display.say("skipped: the proof needs a single process")
        return
    open_run_data(run, images=images)  # writes the split that all trainings use
    for line in prove(run):
        display.say(line)
