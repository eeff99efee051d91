"""`python -m training`: from data to a published version, in one command or step by step."""

import functools
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from model_store.errors import ModelStoreError
from model_store.manifest import check_name, now
from model_store.store import DEFAULT_ROOT, ModelStore
from training import cross_validation, gates, pipeline
from training.data import check_data
from training.display import TrainingDisplay, cross_validation_table
from training.errors import RunError, TrainingError
from training.evaluation import evaluate as evaluate_run
from training.evaluation import read_figures
from training.export import export as export_run
from training.golden import take_golden
from training.networks import parse_depth
from training.publish import Published, check_writable, describe_origin
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
    """Turns our own errors, and the file system's, into one line and exit code 1: a person reads them, not a traceback."""

    def invoke(self, context: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(context)
        except (TrainingError, ModelStoreError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from error


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
            values = values.model_copy(update={"epochs": epochs})
        config = Config(
            model=check_name(model or f"{data}-{arch}"),
            data=data,
            architecture=arch,
            recipe_name=recipe or data,
            recipe=values,
            seed=seed,
            **describe_origin(),
        )
        command(config, **others)

    options = (
        click.option("--data", default="digits", show_default=True, help="The data set."),
        click.option("--arch", default="resnet20", show_default=True, help="resnet20, 32, 44, 56, 110 or 1202."),
        click.option("--model", help="The model's name in the store.  [default: DATA-ARCH]"),
        click.option("--recipe", help="A name in training/recipes, or a .toml file of your own.  [default: as the data]"),
        click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's."),
        click.option(
            "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Weights, order, augmentation."
        ),
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
    waivers, model_store = _parse_waivers(waive), ModelStore(store)
    check_writable(model_store)
    _finish(RunDirectory.create(runs, config), model_store, waivers, promote=promote)


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
    with _live(console, f"python -m training resume {directory.path}") as display:
        train_run(directory, pipeline.load_run_data(directory), display)
        display.say(f"trained; next: python -m training evaluate {directory.path}")


@main.command()
@RUN
@click.pass_obj
def evaluate(console: Console, run: Path) -> None:
    """Measure on the test split, once, through the store's preprocessing."""
    directory = RunDirectory(run)
    figures = evaluate_run(directory, pipeline.load_run_data(directory))
    TrainingDisplay(console).say(f"{_test_accuracy(figures)}; next: python -m training export {run}")


@main.command()
@RUN
@click.pass_obj
def export(console: Console, run: Path) -> None:
    """Write the ONNX file and take the golden images."""
    directory = RunDirectory(run)
    data = pipeline.load_run_data(directory)
    export_run(directory, data)
    take_golden(directory, data)
    TrainingDisplay(console).say(f"exported; next: python -m training gate {run}")


@main.command()
@RUN
@WAIVE
@click.pass_obj
def gate(console: Console, run: Path, waive: tuple[str, ...]) -> None:
    """Check the export against the network that was measured; exit code 1 where a check fails."""
    directory, display = RunDirectory(run), TrainingDisplay(console)
    checks = gates.gate(directory, pipeline.load_run_data(directory), _parse_waivers(waive))
    display.show_checks(checks)
    gates.require_passed(checks)
    display.say(f"every check passed or was waived; next: python -m training publish {run}")


@main.command()
@RUN
@STORE
@PROMOTE
@click.pass_obj
def publish(console: Console, run: Path, store: Path, *, promote: bool) -> None:
    """Seal the export as the model's next version."""
    directory, model_store = RunDirectory(run), ModelStore(store)
    published = publish_run(directory, pipeline.load_run_data(directory), model_store, promote=promote)
    _say_published(TrainingDisplay(console), directory.config().model, published, store)


@main.command(name="cross-validate")
@training_options
@click.option("--folds", default=5, show_default=True, type=click.IntRange(min=2), help="Each part is the test once.")
@click.pass_obj
def cross_validate(console: Console, config: Config, runs: Path, folds: int) -> None:
    """Train once per fold and test each image exactly once; publishes nothing."""
    directory = runs / f"{config.model}-folds-{now():%Y%m%d-%H%M%S}"
    with _live(console, "the same command, from the start") as display:
        result = cross_validation.cross_validate(
            directory, config, folds, lambda number, progress: display(progress, f"fold {number}/{folds}")
        )
        console.print(cross_validation_table(result))


@click.pass_obj
def _finish(console: Console, directory: RunDirectory, store: ModelStore, waivers: dict[str, str], *, promote: bool) -> None:
    config = directory.config()
    with _live(console, f"python -m training resume {directory.path} --store {store.root}") as display:
        display.say(f"run {directory.path}: {config.architecture} on {config.data}, seed {config.seed}")
        published = pipeline.finish(directory, store, display, waivers, promote=promote)
        display.say(_test_accuracy(read_figures(directory)))
        _say_published(display, config.model, published, store.root)


@contextmanager
def _live(console: Console, way_on: str) -> Iterator[TrainingDisplay]:
    """A live display; Ctrl-C ends it with the way to go on instead of a traceback."""
    display = TrainingDisplay(console)
    try:
        with display:
            yield display
    except KeyboardInterrupt:
        display.say(f"stopped; go on with: {way_on}")
        sys.exit(128 + signal.SIGINT)


def _say_published(display: TrainingDisplay, model: str, published: Published, store: Path) -> None:
    display.say(f"published {model} version {published.version} in {store}; serve it: make serve STORE={shlex.quote(str(store))}")
    if not published.promoted:
        display.say(f"`production` does not point to it: python -m model_store --store {store} promote {model} {published.version}")


def _test_accuracy(figures: dict[str, Any]) -> str:
    low, high = figures["top1_interval"]
    return (
        f"test accuracy {figures['top1']:.2%} of {figures['test_images']} images (95 % {low:.2%} to {high:.2%}), "
        f"epoch {figures['best_epoch']} chosen on validation"
    )


def _parse_waivers(waive: tuple[str, ...]) -> dict[str, str]:
    waivers = {}
    for text in waive:
        check, _, reason = text.partition("=")
        if not check or not reason.strip():
            raise RunError(f"--waive takes CHECK=REASON, with a reason; got {text!r}")
        waivers[check] = reason.strip()
    gates.check_waivers(waivers)
    return waivers


if __name__ == "__main__":
    main(prog_name="python -m training")
