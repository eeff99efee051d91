"""`run`, `resume` and `cross-validate`: the whole way, begun or gone on with."""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch
from rich.console import Console

from model_store.aliases import PRODUCTION
from model_store.store import ModelStore
from training.commands.options import (
    DEVICE,
    PROMOTE,
    RUN,
    STORE,
    THREADS,
    WAIVE,
    interruptible,
    parse_waivers,
    training_options,
)
from training.display import TrainingDisplay
from training.errors import InterruptedRunError
from training.learning.distributed import DistributedProcess, join_process_group
from training.run.directory import RunDirectory
from training.run.request import RunRequest, begin
from training.run.tracking import Trackers
from training.steps import cross_validation, pipeline
from training.steps.evaluate import read_figures
from training.steps.publish import Published, create_store, missing_precisions
from training.steps.resume_proof import prove_resume

LAUNCH_FILE = "launch.json"


@click.command()
@training_options
@STORE
@WAIVE
@PROMOTE
@DEVICE
@THREADS
@click.option(
    "--prove-resume",
    is_flag=True,
    help="First kill and resume a short training on this data, and compare the bits.",
)
@click.pass_obj
def run(
    console: Console,
    wish: RunRequest,
    runs: Path,
    store: Path,
    waive: tuple[str, ...],
    device: str,
    threads: int | None,
    *,
    promote: bool,
    prove_resume: bool,
) -> None:
    """Check the data, train, evaluate, export, gate and publish.

    \b
    python -m training run --data PICTURES --arch resnet20 --model flowers
    torchrun --nproc-per-node 2 -m -- training run --data PICTURES --arch resnet50 --recipe imagenet2015
    """
    waivers, model_store = parse_waivers(waive), ModelStore(store)
    create_store(model_store)
    with join_processes(device, threads) as process:
        directory = start_or_rejoin(runs, process, lambda: begin(wish, runs, model_store))
        if prove_resume:
            _prove(console, directory, process)
        finish(console, directory, model_store, waivers, process, promote=promote)


@click.command()
@RUN
@STORE
@WAIVE
@PROMOTE
@DEVICE
@THREADS
@click.pass_obj
def resume(
    console: Console,
    run: Path,
    store: Path,
    waive: tuple[str, ...],
    device: str,
    threads: int | None,
    *,
    promote: bool,
) -> None:
    """Go on with a run that was cut, or whose gate you now waive; what it was asked for is read from it."""
    with join_processes(device, threads) as process:
        finish(
            console,
            RunDirectory(run),
            ModelStore(store),
            parse_waivers(waive),
            process,
            promote=promote,
        )


@click.command(name="cross-validate")
@training_options
@click.option(
    "--folds",
    default=5,
    show_default=True,
    type=click.IntRange(min=2),
    help="Each part is the test once.",
)
@DEVICE
@THREADS
@click.pass_obj
def cross_validate(
    console: Console, wish: RunRequest, runs: Path, folds: int, device: str, threads: int | None
) -> None:
    """Train once per fold and test each image exactly once; publishes nothing."""
    with join_processes(device, threads) as process:
        directory = start_or_rejoin(runs, process, lambda: begin(wish, runs, ModelStore()))
        with (
            open_display(console, process, directory) as display,
            interruptible(process) as interrupted,
        ):
            result = cross_validation.cross_validate(
                directory,
                folds,
                lambda number, progress: display(progress, f"fold {number}/{folds}"),
                process,
                interrupted,
            )
            display.show_cross_validation(result)


@contextlib.contextmanager
def join_processes(device: str, threads: int | None) -> Iterator[DistributedProcess]:
    """Join the others, with so many threads."""
    if threads:
        torch.set_num_threads(threads)
    with join_process_group(device) as process:
        yield process


def start_or_rejoin(
    runs: Path, process: DistributedProcess, begin_run: Callable[[], RunDirectory]
) -> RunDirectory:
    """A new run, or, where `torchrun` starts its workers again after it lost one, the run that they had begun."""
    return RunDirectory(
        Path(process.broadcast_text(str(_begun(runs, begin_run).path) if process.is_main else ""))
    )


def _begun(runs: Path, begin_run: Callable[[], RunDirectory]) -> RunDirectory:
    launch = (
        f"{os.environ['TORCHELASTIC_RUN_ID']} {os.getppid()}"
        if "TORCHELASTIC_RUN_ID" in os.environ
        else None
    )
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        for path in sorted(runs.glob(f"*/{LAUNCH_FILE}"), reverse=True):
            if RunDirectory(path.parent).read_json(LAUNCH_FILE, "run") == launch:
                return RunDirectory(path.parent)
    directory = begin_run()
    if launch:
        directory.write_json(LAUNCH_FILE, launch)
    return directory


def _prove(console: Console, directory: RunDirectory, process: DistributedProcess) -> None:
    display = TrainingDisplay(console)
    display.announce("prove resume")
    if process.is_distributed:
        display.say("the proof is for one process; it is left out")
        return
    for line in prove_resume(directory):
        display.say(line)


def finish(
    console: Console,
    directory: RunDirectory,
    store: ModelStore,
    waivers: dict[str, str],
    process: DistributedProcess,
    *,
    promote: bool,
) -> None:
    """Go on to the published version, and show it."""
    config = directory.config()
    with (
        open_display(console, process, directory) as display,
        interruptible(process) as interrupted,
    ):
        what = f"{config.architecture} on {', '.join(config.data)}"
        display.say(
            f"run {directory.path}: {what}, recipe {config.recipe_name}, seed {config.seed}"
        )
        with print_resume_command(display, directory, store.root):
            published = pipeline.finish(
                directory,
                store,
                display,
                waivers,
                promote=promote,
                interrupted=interrupted,
                process=process,
            )
        display.say(describe_accuracy(directory))
        if published:
            print_published(display, config.model, published, store.root)


def open_display(
    console: Console, process: DistributedProcess, directory: RunDirectory
) -> TrainingDisplay:
    """A display of the run; of several processes only the first shows and tracks anything."""
    return (
        TrainingDisplay(console, Trackers(directory))
        if process.is_main
        else TrainingDisplay(Console(quiet=True))
    )


@contextlib.contextmanager
def print_resume_command(
    display: TrainingDisplay, directory: RunDirectory, store: Path
) -> Iterator[None]:
    """An interrupted run ends with the command that goes on with it, and exit code 130."""
    try:
        yield
    except InterruptedRunError as stopped:
        command = ["python", "-m", "training", "resume", str(directory.path), "--store", str(store)]
        display.say(f"{stopped}\ngo on with: {shlex.join(command)}")
        sys.exit(128 + signal.SIGINT)


def print_published(
    display: TrainingDisplay, model: str, published: Published, store: Path
) -> None:
    """Where the version is, whether it serves and how to have it so, and what the one before it had that it has not."""
    model_store, folder, version = ModelStore(store), shlex.quote(str(store)), published.version
    display.say(
        f"published {model} version {version} in {store}; serve the store: make serve STORE={folder}"
    )
    live = model_store.aliases(model).version(PRODUCTION)
    promote = f"python -m model_store --store {folder} promote {model} {version}"
    if live is None:
        display.say(
            f"no `production` says what serves, so the newest version does, and that is this one; to keep it so: {promote}"
        )
    elif live != version:
        display.say(f"`production` stays at version {live}; to serve this one: {promote}")
    if lost := missing_precisions(model_store, model, version):
        before, precisions = lost
        display.say(
            f"version {before} answers in {' and '.join(precisions)} too, version {version} does not; to make it anew:"
        )
        for precision in precisions:
            display.say(
                f"  python -m training quantize {model}/{version} --precision {precision} --store {folder}"
            )


def describe_accuracy(run: RunDirectory) -> str:
    """The run's figure in a line."""
    figures = read_figures(run)
    low, high = figures["top1_interval"]
    return (
        f"test accuracy {figures['top1']:.2%} of {figures['test_images']} images (95 % {low:.2%} to {high:.2%}), "
        f"epoch {figures['best_epoch']}{'' if run.config().recipe.select == 'last' else ' chosen on validation'}"
    )
