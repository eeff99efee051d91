"""Shared by commands: join processes, handle Ctrl-C, open a display, print the next command."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

import click
import torch
from rich.console import Console

from model_store.aliases import PRODUCTION
from model_store.command_line import as_called
from model_store.open_store import StoreLocation, open_store
from model_store.store import ModelStore
from model_store.version import Version
from training.commands.compute_options import ComputeOptions
from training.display import TrainingDisplay
from training.errors import InterruptedRunError, RunError
from training.learning.distributed import DistributedProcess, join_process_group
from training.promotion import missing_precisions
from training.quantization.version_data import is_training_data
from training.run.data import RunData
from training.run.directory import Run, RunDirectory
from training.run.tracking import Trackers
from training.running_server import WAIT_SECONDS, RunningServer
from training.steps.evaluate import read_figures
from training.steps.publish import PUBLISHED_FILE, Published


@contextlib.contextmanager
def join_processes(compute: ComputeOptions) -> Iterator[DistributedProcess]:
    """Join the processes that torchrun started, and set the number of threads until the end."""
    available = torch.get_num_threads()
    if compute.threads:
        torch.set_num_threads(compute.threads)
    is_given = compute.threads is not None or "OMP_NUM_THREADS" in os.environ
    try:
        with join_process_group(compute.device) as process:
            is_alone_on_cpu = process.device.type == "cpu" and not process.is_distributed
            chooses = is_alone_on_cpu and not is_given
            threads = available if chooses else None
            yield replace(process, available_threads=threads, workers=compute.workers)
    finally:
        torch.set_num_threads(available)


@contextlib.contextmanager
def interruptible(process: DistributedProcess) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True after Ctrl-C or SIGTERM. A second signal exits at once.

    In a group of processes signals exit at once: the others are at other steps, and the newest
    checkpoint is valid for all. In a thread, as under Ray, there are no signals.
    """
    if process.is_distributed or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    interrupted = False

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            sys.exit(128 + number)
        interrupted = True
        click.echo("stopping after this step; press Ctrl-C again to stop at once", err=True)

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, handle) for number in signals}
    try:
        yield lambda: interrupted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def open_display(console: Console, process: DistributedProcess, run: Run) -> TrainingDisplay:
    """Return a display with trackers; a silent one in processes other than the first."""
    if not process.is_main:
        return TrainingDisplay(Console(quiet=True))
    return TrainingDisplay(console, Trackers(run))


@contextlib.contextmanager
def print_resume_command(
    display: TrainingDisplay, run: Run, store: StoreLocation, *options: str
) -> Iterator[None]:
    """If the run is interrupted, print the command that resumes it and exit with 130."""
    try:
        yield
    except InterruptedRunError as error:
        display.say(str(error))
        command = as_called("training resume").split()
        display.say_command("resume with", *command, run.path, "--store", store, *options)
        sys.exit(128 + signal.SIGINT)


def print_start_changes(display: TrainingDisplay, run: Run) -> None:
    """Say what differs between `--start` and the initial network, or is not recorded."""
    for change in run.config.start_changes:
        display.say(f"--start {run.config.start}: {change}")


def describe_accuracy(run: Run) -> str:
    """Return the test accuracy of a run in one line."""
    figures = read_figures(run)
    low, high = figures["top1_interval"]
    selected = "" if run.config.recipe.select == "last" else " selected on validation"
    return (
        f"test accuracy {figures['top1']:.2%} on {figures['test_images']} images "
        f"(95 % interval {low:.2%} to {high:.2%}), epoch {figures['best_epoch']}{selected}"
    )


def print_data_note(display: TrainingDisplay, version: Version, data: RunData) -> None:
    """Print a note if `data` differs from the training data of the version."""
    if not is_training_data(version, data):
        display.say(
            f"note: {data.images.name} is not exactly the data that {version} was trained on; all "
            "figures are for these images"
        )


def print_next(display: TrainingDisplay, command: str, *words: str | Path) -> None:
    """Print the command that comes next; `command` is as for `as_called`."""
    display.say_command("next", *as_called(command).split(), *words)


def print_next_step(display: TrainingDisplay, run: Path) -> None:
    """Print the command that comes next for a run: serve its version, or finish the run."""
    store = None
    with contextlib.suppress(RunError, TypeError, KeyError):
        store = Path(RunDirectory(run).read_json(PUBLISHED_FILE, "publish")["store"])
    if store:
        print_next(display, "service", "--store", _shorten(store))
    else:
        print_next(display, "training resume", run)


def print_next_run(display: TrainingDisplay, run: Run, store: StoreLocation, *changes: str) -> None:
    """Print the command that trains and publishes with the values of this run and `changes`."""
    command, *words = run.config.command_words(paths=True)
    options = ("--runs", run.path.parent, "--store", store)
    print_next(display, f"training {command}", *words, *changes, *options)


def print_published(
    display: TrainingDisplay, model: str, published: Published, store: StoreLocation
) -> None:
    """Print where a version is, which version serves, and what comes next."""
    model_store, version, options = open_store(store), published.version, ("--store", store)
    display.say(f"published {model} version {version} to {store}")
    live = model_store.aliases(model).version(PRODUCTION)
    if live is None:
        display.say(f"version {version} serves because it is the newest; `production` is not set")
    elif live != version:
        display.say(f"`production` stays at version {live}, so version {version} does not serve")
    if missing := missing_precisions(model_store, model, version):
        before, precisions = missing
        display.say(
            f"version {before} has {' and '.join(precisions)} variants, version {version} does "
            "not; create them again:"
        )
        command = (*as_called("training quantize").split(), f"{model}/{version}")
        for precision in precisions:
            display.say_command("  create", *command, "--precision", precision, *options)
    if live in {None, version}:
        _print_serving(display, model_store, model, version)
    else:
        print_next(display, "model_store promote", model, str(version), *options)


def _print_serving(display: TrainingDisplay, store: ModelStore, model: str, number: int) -> None:
    """Say whether a running server has the version, and print the commands that use it."""
    server = RunningServer()
    with store.open(model, number, verify=False) as version:
        digest, golden = f"sha256:{version.digest}", version.manifest.golden
        image = version.path(golden[0].image) if golden else Path("IMAGE.jpg")
    image = _shorten(image)
    address = f"{server.address}/v1/models/{model}/predict"
    curl = ("curl", "--data-binary", f"@{image}", address)
    if server.answers():
        serves = server.serves(model, digest, wait=0)
        if not serves:
            display.say(
                f"waiting up to {WAIT_SECONDS:.0f} s for the server at {server.address} to load "
                f"version {number}"
            )
            serves = server.serves(model, digest)
        if serves:
            display.say(f"the server at {server.address} serves version {number} now")
            display.say_command("next", *curl)
            return
        display.say(
            f"the server at {server.address} does not serve version {number}: it reads another "
            "store, or its log says why"
        )
    print_next(display, "service", "--store", store.location)
    display.say_command("then", *curl)


def _shorten(path: Path) -> Path:
    """Return the path relative to the working directory, if it is in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
