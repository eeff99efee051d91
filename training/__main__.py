"""`python -m training`: from data to a published version, in one command or step by step."""

import dataclasses
import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from model_store.errors import ModelStoreError
from model_store.manifest import check_name
from model_store.store import DEFAULT_ROOT, ModelStore
from training import cross_validation, gates, pipeline
from training.data import check_data
from training.display import TrainingDisplay, checks_table, cross_validation_table
from training.errors import RunError, TrainingError
from training.evaluation import evaluate as evaluate_run
from training.export import export as export_run
from training.golden import take_golden
from training.networks import parse_depth
from training.publish import publish as publish_run
from training.recipe import Recipe
from training.run_directory import Config, RunDirectory
from training.train import train as train_run

DIRECTORY = click.Path(file_okay=False, path_type=Path)
EXISTING_RUN = click.Path(exists=True, file_okay=False, path_type=Path)
RUN = click.argument("run", type=EXISTING_RUN)
STORE = click.option("--store", type=DIRECTORY, default=DEFAULT_ROOT, show_default=True, help="Where to publish.")
WAIVE = click.option(
    "--waive",
    multiple=True,
    metavar="CHECK=REASON",
    help="Publish although this check failed. The reason stands in the manifest for ever. May be repeated.",
)
PROMOTE = click.option("--promote/--no-promote", default=True, show_default=True, help="Whether `production` follows.")


class TrainingGroup(click.Group):
    """Turns our own errors into one line and exit code 1: a person reads them, not a traceback."""

    def invoke(self, context: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(context)
        except (TrainingError, ModelStoreError) as error:
            raise click.ClickException(str(error)) from error


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """What to train; the command receives it as one Config."""

    @functools.wraps(command)
    def with_config(  # noqa: PLR0917  click passes by name
        data: str, arch: str, model: str | None, recipe: str | None, epochs: int | None, seed: int, **others: Any
    ) -> None:
        check_data(data)
        parse_depth(arch)
        values = Recipe.load(recipe or data)
        if epochs:
            values = dataclasses.replace(values, epochs=epochs)
        name = check_name(model or f"{data}-{arch}")
        line = shlex.join(["python", "-m", "training", *sys.argv[1:]])
        command(Config(name, data, arch, recipe or data, values, seed, line), **others)

    options = (
        click.option("--data", default="digits", show_default=True, help="The data set."),
        click.option("--arch", default="resnet20", show_default=True, help="resnet20, 32, 44, 56, 110 or 1202."),
        click.option("--model", help="The model's name in the store.  [default: DATA-ARCH]"),
        click.option("--recipe", help="A name in training/recipes, or a .toml file of your own.  [default: as the data]"),
        click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's."),
        click.option("--seed", default=0, show_default=True, help="Weights, order and augmentation follow from it."),
        click.option("--runs", type=DIRECTORY, default=Path("runs"), show_default=True, help="Where run directories go."),
    )
    decorated: Callable[..., None] = with_config
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


@click.group(cls=TrainingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Train a residual network, and publish it as a sealed version that serves the answers it gave in training.

    `run` does everything. Each step is also a command of its own on a run's directory: train, evaluate, export, gate,
    publish. A run that was cut goes on with `resume`.
    """
    context.obj = Console()


@main.command()
@training_options
@STORE
@WAIVE
@PROMOTE
def run(config: Config, runs: Path, store: Path, waive: tuple[str, ...], *, promote: bool) -> None:
    """Train, evaluate, export, gate and publish.

    \b
    python -m training run --data digits --arch resnet20 --store model_store/models --model digits-resnet20
    """
    waivers = _parse_waivers(waive)
    _finish(RunDirectory.create(runs, config), ModelStore(store), waivers, promote=promote)


@main.command()
@RUN
@STORE
@WAIVE
@PROMOTE
def resume(run: Path, store: Path, waive: tuple[str, ...], *, promote: bool) -> None:
    """Go on with a run that was cut, or whose gate you now waive; what it was asked for is read from it."""
    _finish(RunDirectory(run), ModelStore(store), _parse_waivers(waive), promote=promote)


@main.command()
@training_options
@click.pass_obj
def train(console: Console, config: Config, runs: Path) -> None:
    """Only train: make a run and leave the weights that validation chose."""
    directory = RunDirectory.create(runs, config)
    with TrainingDisplay(console) as display:
        train_run(directory, pipeline.start(directory), display)
    console.print(f"trained; next: python -m training evaluate {directory.path}")


@main.command()
@RUN
@click.pass_obj
def evaluate(console: Console, run: Path) -> None:
    """Open the test split, once, through the store's preprocessing."""
    directory = RunDirectory(run)
    figures = evaluate_run(directory, pipeline.start(directory))
    console.print(f"{_test_accuracy(figures)}; next: python -m training export {run}")


@main.command()
@RUN
@click.pass_obj
def export(console: Console, run: Path) -> None:
    """Write the ONNX file and take the golden images."""
    directory = RunDirectory(run)
    data = pipeline.start(directory)
    export_run(directory, data)
    take_golden(directory, data)
    console.print(f"exported; next: python -m training gate {run}")


@main.command()
@RUN
@WAIVE
@click.pass_obj
def gate(console: Console, run: Path, waive: tuple[str, ...]) -> None:
    """Check the export against the network that was measured; exit code 1 where a check fails."""
    directory = RunDirectory(run)
    checks = gates.gate(directory, pipeline.start(directory), _parse_waivers(waive))
    console.print(checks_table(checks))
    gates.require_passed(checks)
    console.print(f"every check passed or was waived; next: python -m training publish {run}")


@main.command()
@RUN
@STORE
@PROMOTE
@click.pass_obj
def publish(console: Console, run: Path, store: Path, *, promote: bool) -> None:
    """Seal the export as the model's next version."""
    directory = RunDirectory(run)
    version = publish_run(directory, pipeline.start(directory), ModelStore(store), promote=promote)
    console.print(f"published {directory.config().model} version {version} in {store}")


@main.command(name="cross-validate")
@training_options
@click.option("--folds", default=5, show_default=True, type=click.IntRange(min=2), help="Each part is the test once.")
@click.pass_obj
def cross_validate(console: Console, config: Config, runs: Path, folds: int) -> None:
    """Train once per fold and test each image exactly once; publishes nothing."""
    directory = RunDirectory.create(runs, config)
    with TrainingDisplay(console) as display:
        result = cross_validation.cross_validate(
            directory, folds, lambda number, progress: display(progress, f"fold {number}/{folds}")
        )
    directory.write_json("cross_validation.json", dataclasses.asdict(result))
    console.print(cross_validation_table(result))


@click.pass_obj
def _finish(console: Console, directory: RunDirectory, store: ModelStore, waivers: dict[str, str], *, promote: bool) -> None:
    config = directory.config()
    console.print(f"run [bold]{directory.path}[/bold]: {config.architecture} on {config.data}, seed {config.seed}")
    try:
        with TrainingDisplay(console) as display:
            version = pipeline.finish(directory, store, display, display.announce, waivers, promote=promote)
    except KeyboardInterrupt:
        console.print(f"stopped; go on with: python -m training resume {directory.path} --store {store.root}")
        sys.exit(130)
    finally:
        if directory.has(gates.GATES):
            console.print(checks_table(gates.read_checks(directory)))
    console.print(_test_accuracy(evaluate_run(directory, pipeline.start(directory))))
    console.print(f"published [bold]{config.model}[/bold] version {version}; serve it: make serve STORE={store.root}")


def _test_accuracy(figures: dict[str, Any]) -> str:
    low, high = figures["top1_interval"]
    return (
        f"test accuracy [bold]{figures['top1']:.2%}[/bold] of {figures['test_images']} images "
        f"(95 % {low:.2%} to {high:.2%}), epoch {figures['best_epoch']} chosen on validation"
    )


def _parse_waivers(waive: tuple[str, ...]) -> dict[str, str]:
    waivers = {}
    for text in waive:
        check, _, reason = text.partition("=")
        if not check or not reason.strip():
            raise RunError(f"--waive takes CHECK=REASON, with a reason; got {text!r}")
        waivers[check] = reason.strip()
    return waivers


if __name__ == "__main__":
    main(prog_name="python -m training")
