"""What several commands ask for, and how they all talk: one line an error, Ctrl-C that leaves a checkpoint."""

import functools
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from model_store.errors import ModelStoreError
from model_store.store import DEFAULT_ROOT
from training.errors import RunError, TrainingError
from training.gates import gate as gates
from training.learning.distributed import DistributedProcess
from training.learning.networks import describe_architectures
from training.run.request import DEFAULT_ARCHITECTURE, RunRequest

DIRECTORY = click.Path(file_okay=False, path_type=Path)
EXISTING_RUN = click.Path(exists=True, file_okay=False, path_type=Path)
RUN = click.argument("run", type=EXISTING_RUN)
RUNS = click.option(
    "--runs",
    type=DIRECTORY,
    default=Path("runs"),
    show_default=True,
    help="Where run directories lie.",
)
STORE = click.option(
    "--store", type=DIRECTORY, default=DEFAULT_ROOT, show_default=True, help="Where to publish."
)
WAIVE = click.option(
    "--waive",
    multiple=True,
    metavar="CHECK=REASON",
    help="Publish although this check failed. The reason stands in the manifest for ever. May be repeated.",
)
PROMOTE = click.option(
    "--promote/--no-promote", default=True, show_default=True, help="Whether `production` follows."
)
DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(exists=True, path_type=Path),
    help="Where a known set's own files lie.",
)
DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu, cuda, cuda:1; auto takes a GPU where there is one.",
)
THREADS = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads of the arithmetic.  [default: torch's choice]",
)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Threads that decode; they change no pixel.",
)
SEED: Final = click.IntRange(0, 2**31 - 1)


class TrainingGroup(click.Group):
    """Turns our own errors, and the file system's, into one line and exit code 1: a person reads them, not a traceback."""

    def invoke(self, context: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(context)
        except (TrainingError, ModelStoreError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(
                f"{error.filename or 'a file'}: {error.strerror or error}"
            ) from error


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """How to train, whatever on."""
    return add_options(
        command,
        click.option(
            "--recipe",
            help="A name, or a .toml file of your own; `python -m training recipes` lists them.  "
            "[default: as the data is called, finetune with --start, else modern]",
        ),
        click.option(
            "--epochs",
            type=click.IntRange(min=1),
            help="Instead of the recipe's; its schedule keeps its shape.",
        ),
        click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="NAME=VALUE",
            help="One of the recipe's values, as optimizer.learning_rate=0.05. May be repeated.",
        ),
        click.option(
            "--seed", type=SEED, default=0, show_default=True, help="Weights, order, augmentation."
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16"]),
            default="auto",
            show_default=True,
            help="auto takes bf16 where the hardware multiplies it.",
        ),
        click.option(
            "--compile",
            type=click.Choice(["auto", "on", "off"]),
            default="auto",
            show_default=True,
            help="torch.compile; auto compiles on a GPU.",
        ),
        click.option(
            "--keep-checkpoint/--no-checkpoint",
            default=True,
            show_default=True,
            help="Whether the version holds the weights to retrain from; without them it is half as large.",
        ),
        click.option(
            "--golden-samples",
            type=click.IntRange(min=0),
            default=5,
            show_default=True,
            help="Images of the validation split that are published in the version for its golden proof.",
        ),
        click.option(
            "--golden-image",
            "golden_images",
            multiple=True,
            type=click.Path(exists=True, dir_okay=False),
            help="A picture of your own to publish in the version for its golden proof. May be repeated.",
        ),
        DATA_DIR,
        RUNS,
    )


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """What to train from the beginning; the command receives it as one RunRequest."""

    @functools.wraps(command)
    def with_wish(arch: str | None, **values: Any) -> None:
        command(build_request(values, architecture=arch), **values)

    return add_options(
        recipe_options(with_wish),
        click.option(
            "--data",
            multiple=True,
            default=("digits",),
            show_default=True,
            help="digits, fashion-mnist, cifar10, cifar100, a folder of folders of images, or a CSV of path,label. "
            "May be repeated: the sets are put together by their labels.",
        ),
        click.option(
            "--arch",
            help=f"{describe_architectures()}.  [default: that of --start, else {DEFAULT_ARCHITECTURE}]",
        ),
        click.option("--model", help="The model's name in the store.  [default: DATA-ARCH]"),
        click.option(
            "--image-size",
            type=click.IntRange(8, 1024),
            help="The input's side.  [default: as the data or the network]",
        ),
        click.option(
            "--start",
            metavar="WEIGHTS",
            help="Begin with trained weights: `torchvision`, a .safetensors or .pth file "
            "with torchvision's names, or MODEL or MODEL/VERSION of the store. A head of other classes is replaced.",
        ),
    )


def build_request(values: dict[str, Any], **more: Any) -> RunRequest:
    """Take a RunRequest's values out of what the command line gave."""
    taken = {name: values.pop(name) for name in RunRequest.__dataclass_fields__ if name in values}
    if epochs := values.pop("epochs"):
        taken["changes"] = (*taken["changes"], f"epochs={epochs}")
    return RunRequest(**taken, **more)


def parse_waivers(waive: tuple[str, ...], known: Sequence[str] = gates.CHECKS) -> dict[str, str]:
    """CHECK=REASON by check, each of a known one. Raises RunError, GateError."""
    waivers = {}
    for text in waive:
        check, _, reason = text.partition("=")
        if not check or not reason.strip():
            raise RunError(f"--waive takes CHECK=REASON, with a reason; got {text!r}")
        waivers[check] = reason.strip()
    gates.check_waivers(waivers, known)
    return waivers


@contextmanager
def interruptible(process: DistributedProcess) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for an end after the step at hand; a second one ends at once.

    One of several processes ends at once: the others are at other steps, and the last checkpoint is that of all.
    """
    if process.is_distributed:
        yield lambda: False
        return
    asked = False

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked:
            sys.exit(128 + number)
        asked = True
        click.echo("stopping after this step; once more to stop at once", err=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def add_options(command: Callable[..., None], *options: Callable[..., Any]) -> Callable[..., None]:
    """The command with these options, listed in this order."""
    for option in reversed(options):
        command = option(command)
    return command
