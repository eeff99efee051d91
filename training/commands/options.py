"""Options that several commands share.

Modules of commands import torch only in the functions that need it: a mistyped option is reported
before that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console

from model_store.errors import KeyFileError
from model_store.open_store import StoreLocationType
from model_store.store import DEFAULT_ROOT
from training.commands.early_checks import (
    check_architecture,
    check_changes_option,
    check_model_name,
    check_recipe,
    check_request,
    check_run,
)
from training.commands.geometry_options import IMAGE_SIZE, PADDING, RESIZE_MODE
from training.gates.waivers import parse_waivers
from training.learning.architectures import DEFAULT_ARCHITECTURE, describe_architectures

if TYPE_CHECKING:
    from model_store.signature import SigningKey
    from training.run.request import RunRequest

DIRECTORY = click.Path(file_okay=False, path_type=Path)
EXISTING_RUN = click.Path(exists=True, file_okay=False, path_type=Path)
RUN = click.argument("run", type=EXISTING_RUN, callback=check_run)
RUNS = click.option(
    "--runs",
    type=DIRECTORY,
    default=Path("runs"),
    show_default=True,
    help="Directory that contains the run directories.",
)
STORE = click.option(
    "--store",
    type=StoreLocationType(),
    default=DEFAULT_ROOT,
    show_default=True,
    envvar="SERVICE_STORE",
    show_envvar=True,
    help="The model store: a directory, or a URL like s3://bucket/models.",
)
PROMOTE = click.option(
    "--promote/--no-promote",
    default=True,
    show_default=True,
    help="Whether `production` moves to the new version.",
)


def _read_signing_key(
    _: click.Context, __: click.Parameter, path: Path | None
) -> SigningKey | None:
    if path is None:
        return None
    from model_store.signature import SigningKey

    try:
        return SigningKey.read(path)
    except KeyFileError as error:
        raise click.BadParameter(str(error)) from None


SIGN_KEY = click.option(
    "--sign-key",
    "signing_key",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_read_signing_key,
    envvar="RESIDENT_SIGN_KEY",
    show_envvar=True,
    help="Sign the version with this Ed25519 private key (a PEM file).",
)
INT8 = click.option(
    "--int8/--no-int8",
    default=False,
    show_default=True,
    help="Afterwards, also publish a version with INT8, as `quantize` does, and print the effect "
    "on accuracy, size and speed. If a check fails, only the fp32 version is published.",
)
DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(exists=True, path_type=Path),
    help="Directory with the files of a known data set.",
)
SEED: Final = click.IntRange(0, 2**31 - 1)


pass_console = click.make_pass_decorator(Console, ensure=True)
"""Gives a command the console that it writes to."""


def waive_option(known: Sequence[str]) -> Callable[..., Any]:
    """Return `--waive`, which takes the names of checks in `known`."""

    def parse(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
        return parse_waivers(texts, known)

    return click.option(
        "--waive",
        "waivers",
        multiple=True,
        callback=parse,
        metavar="CHECK=REASON",
        help="Publish although this check failed. The manifest keeps the reason. Repeatable.",
    )


EPOCHS = click.option(
    "--epochs", type=click.IntRange(min=1), help="Overrides the epochs of the recipe."
)
CHANGES = click.option(
    "--set",
    "changes",
    multiple=True,
    callback=check_changes_option,
    metavar="NAME=VALUE",
    help="Overrides a value of the recipe, like optimizer.learning_rate=0.05. Repeatable.",
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="auto uses bf16 if the hardware supports it.",
)


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how to train."""
    return add_options(
        command,
        click.option(
            "--recipe",
            callback=check_recipe,
            help="Name of a recipe (`python -m training recipes` lists them), or a .toml file.  "
            "[default: that of a known data set, finetune with --start or retrain, else modern]",
        ),
        EPOCHS,
        CHANGES,
        click.option(
            "--seed",
            type=SEED,
            default=0,
            show_default=True,
            help="Seed of weights, image order and augmentation.",
        ),
        PRECISION,
        click.option(
            "--compile",
            type=click.Choice(["auto", "on", "off"]),
            default="auto",
            show_default=True,
            help="torch.compile; auto compiles on a GPU.",
        ),
        click.option(
            "--keep-checkpoint/--no-keep-checkpoint",
            " /--no-checkpoint",
            default=True,
            show_default=True,
            help="Whether the version includes the weights that `retrain` needs; they double its "
            "size.",
        ),
        click.option(
            "--keep-report/--no-keep-report",
            " /--no-report",
            default=True,
            show_default=True,
            help="Whether the version includes the training report, which shows test images.",
        ),
        click.option(
            "--golden-samples",
            type=click.IntRange(min=0),
            default=5,
            show_default=True,
            help="Number of validation images that are published for the golden proof.",
        ),
        click.option(
            "--golden-image",
            "golden_images",
            multiple=True,
            type=click.Path(exists=True, dir_okay=False),
            help="Your own image to publish for the golden proof. Repeatable.",
        ),
        DATA_DIR,
        RUNS,
    )


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a new run. The command gets them as one RunRequest, `request`."""

    @functools.wraps(command)
    def with_request(**values: Any) -> None:
        check_request(values)
        command(request=build_request(values), **values)

    return add_options(
        recipe_options(with_request),
        click.option(
            "--data",
            multiple=True,
            default=("digits",),
            show_default=True,
            help="digits, fashion-mnist, cifar10, cifar100, a folder of class folders, or a CSV of "
            "path,label. Repeatable: sets are merged by label.",
        ),
        click.option(
            "--arch",
            "architecture",
            callback=check_architecture,
            help=f"{describe_architectures()}.  "
            f"[default: that of --start, else {DEFAULT_ARCHITECTURE}]",
        ),
        click.option(
            "--model",
            callback=check_model_name,
            help="Name of the model in the store.  [default: DATA-ARCH]",
        ),
        IMAGE_SIZE,
        RESIZE_MODE,
        PADDING,
        click.option(
            "--start",
            metavar="WEIGHTS",
            help="Initial weights: `torchvision`, a file (.safetensors, .pth, .ckpt, …) with "
            "torchvision's names, MODEL or MODEL/VERSION. The head is replaced if the classes "
            "differ.",
        ),
    )


def build_request(values: dict[str, Any], **more: Any) -> RunRequest:
    """Build a RunRequest from parsed options; removes them from `values`."""
    from training.run.request import RunRequest

    fields = {name: values.pop(name) for name in RunRequest.__dataclass_fields__ if name in values}
    if epochs := values.pop("epochs"):
        fields["changes"] = (*fields["changes"], f"epochs={epochs}")
    return RunRequest(**fields, **more)


def add_options(command: Callable[..., None], *options: Callable[..., Any]) -> Callable[..., None]:
    """Add options, in the order in which `--help` lists them."""
    for option in reversed(options):
        command = option(command)
    return command
