"""The steps one by one, each on a run's directory: train, evaluate, calibrate, export, gate, publish."""

from pathlib import Path

import click
from rich.console import Console

from model_store.store import ModelStore
from training.commands.options import (
    DEVICE,
    EXISTING_RUN,
    PROMOTE,
    RUN,
    STORE,
    THREADS,
    WAIVE,
    interruptible,
    parse_waivers,
    training_options,
)
from training.commands.run import (
    describe_accuracy,
    join_processes,
    open_display,
    print_published,
    print_resume_command,
    start_or_rejoin,
)
from training.display import TrainingDisplay
from training.gates import gate as gates
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.data import RunData, open_run_data
from training.run.directory import RunDirectory
from training.run.request import RunRequest, begin
from training.steps.calibrate import calibrate as calibrate_run
from training.steps.calibrate import take_calibration
from training.steps.evaluate import evaluate as evaluate_run
from training.steps.export import export as export_run
from training.steps.golden import take_golden
from training.steps.publish import publish as publish_run
from training.steps.train import train as train_run


@click.command()
@training_options
@STORE
@DEVICE
@THREADS
@click.pass_obj
def train(
    console: Console, wish: RunRequest, runs: Path, store: Path, device: str, threads: int | None
) -> None:
    """Only train: make a run and leave the weights that validation chose."""
    with join_processes(device, threads) as process:
        directory = start_or_rejoin(runs, process, lambda: begin(wish, runs, ModelStore(store)))
        with (
            open_display(console, process, directory) as display,
            interruptible(process) as interrupted,
        ):
            data = open_run_data(directory, display.count("checking"), process)
            display.show_data(data)
            with print_resume_command(display, directory, store):
                train_run(directory, data, display, process, interrupted)
            display.say(f"trained; next: python -m training evaluate {directory.path}")


@click.command()
@RUN
@DEVICE
@THREADS
@click.pass_obj
def evaluate(console: Console, run: Path, device: str, threads: int | None) -> None:
    """Measure on the test split, once, through the store's preprocessing."""
    with join_processes(device, threads) as process:
        directory, display, data = _opened(console, run, process)
        evaluate_run(directory, data, process)
        display.say(f"{describe_accuracy(directory)}; next: python -m training calibrate {run}")


@click.command()
@RUN
@click.option(
    "--twin",
    type=EXISTING_RUN,
    help="A run of the same recipe whose values to take, where RUN trained on validation too.",
)
@DEVICE
@THREADS
@click.pass_obj
def calibrate(
    console: Console, run: Path, twin: Path | None, device: str, threads: int | None
) -> None:
    """Fit on the validation split how far the answers can be trusted, and measure that on the test split.

    The temperature that makes scores probabilities, the energy above which an image is refused as unlike the training images
    (about 3 % of validation), and for sets of labels the least probability of one (coverages 0.8, 0.9 and 0.95). `publish`
    puts them into the version. A version that is published already does not change.

    \b
    python -m training calibrate runs/FINAL --twin runs/CHOSEN    # FINAL was trained with learn_validation=true
    """
    with join_processes(device, threads) as process:
        if twin:
            directory, display = RunDirectory(run), TrainingDisplay(console)
            display.show_calibration(take_calibration(directory, RunDirectory(twin)))
        else:
            directory, display, data = _opened(console, run, process)
            display.show_calibration(calibrate_run(directory, data, process))
        display.say(f"next: python -m training export {run}")


@click.command()
@RUN
@click.pass_obj
def export(console: Console, run: Path) -> None:
    """Write the ONNX file and take the golden images."""
    directory, display, data = _opened(console, run)
    export_run(directory)
    take_golden(directory, data)
    display.say(f"exported; next: python -m training gate {run}")


@click.command()
@RUN
@STORE
@WAIVE
@click.pass_obj
def gate(console: Console, run: Path, store: Path, waive: tuple[str, ...]) -> None:
    """Check the export against the network that was measured and against the live version; exit code 1 where a check fails."""
    waivers = parse_waivers(waive)
    directory, display, data = _opened(console, run)
    checks = gates.gate(directory, data, waivers, ModelStore(store))
    display.show_checks(checks)
    gates.require_passed(checks)
    display.say(f"every check passed or was waived; next: python -m training publish {run}")


@click.command()
@RUN
@STORE
@PROMOTE
@click.pass_obj
def publish(console: Console, run: Path, store: Path, *, promote: bool) -> None:
    """Seal the export as the model's next version."""
    directory, display, data = _opened(console, run)
    published = publish_run(directory, data, ModelStore(store), promote=promote)
    print_published(display, directory.config().model, published, store)


def _opened(
    console: Console, run: Path, process: DistributedProcess = SINGLE_PROCESS
) -> tuple[RunDirectory, TrainingDisplay, RunData]:
    directory = RunDirectory(run)
    with open_display(console, process, directory) as display:
        return directory, display, open_run_data(directory, display.count("reading"), process)
