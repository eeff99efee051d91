"""Checks of options that need no torch, so that a mistake is reported before torch is imported.

Some are callbacks of click. They raise the errors that the steps of a run would raise later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from model_store.names import check_name
from model_store.open_store import StoreLocation, open_store
from model_store.store import ModelStore
from training.data.sources import resolve_source
from training.errors import RunError
from training.learning.architectures import DEFAULT_ARCHITECTURE, parse_architecture
from training.learning.recipe_file import check_changes, load_recipe
from training.run.directory import Run
from training.run.golden_images import check_golden_images
from training.run.initial_reference import (
    open_version,
    rename_classes,
    require_checkpoint,
    require_initial_weights,
)


def check_recipe(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """Raise RecipeError if there is no such recipe."""
    if name is not None:
        load_recipe(name)
    return name


def check_architecture(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """Raise RecipeError if there is no such network."""
    if name is not None:
        parse_architecture(name)
    return name


def check_changes_option(
    _: click.Context, __: click.Parameter, changes: tuple[str, ...]
) -> tuple[str, ...]:
    """Raise RecipeError if a change is not NAME=VALUE for a value of recipes."""
    check_changes(changes)
    return changes


def check_device(_: click.Context, __: click.Parameter, name: str) -> str:
    """Raise RunError if this is not the name of a device."""
    if not re.fullmatch(r"auto|cpu|(cuda|mps|xpu)(:\d+)?", name):
        raise RunError(f"there is no device {name!r}; `--device` takes cpu, cuda, cuda:0, …")
    return name


def check_model_name(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """Raise InvalidNameError if this is not a valid name of a model."""
    return name and check_name(name)


def check_run(
    _: click.Context, __: click.Parameter, value: Path | tuple[Path, ...] | None
) -> Path | tuple[Path, ...] | None:
    """Raise RunError if a directory is not a run."""
    for path in value if isinstance(value, tuple) else (value,):
        if path is not None:
            Run.open(path)
    return value


def check_output_file(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Raise BadParameter if the folder of a file to write does not exist."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"the folder {path.parent} does not exist; create it")
    return path


def check_sources(names: Sequence[str], data_dir: Path | None) -> None:
    """Raise DataError if a source of data does not exist."""
    for name in names:
        resolve_source(name, data_dir)


def check_request(values: Mapping[str, Any]) -> None:
    """Check the options of a new run.

    Raises:
        TrainingError, ModelStoreError: Data, initial weights or a golden image does not exist, or
            the name of the model is not valid.
    """
    data = values["data"]
    check_sources(data, values["data_dir"])
    check_golden_images(values["golden_images"])
    architecture = values["architecture"] or DEFAULT_ARCHITECTURE
    if start := values["start"]:
        require_initial_weights(start, architecture, _existing_or_empty(values["store"]))
    elif not values["model"]:
        check_name(f"{Path(data[0]).stem}-{architecture}")


def check_retraining(reference: str, store: StoreLocation, values: Mapping[str, Any]) -> None:
    """Check the options of `retrain`.

    Raises:
        TrainingError, ModelStoreError: Data or a golden image does not exist, or the version
            cannot be retrained with these names of classes.
    """
    check_sources(values["data"], values["data_dir"])
    check_golden_images(values["golden_images"])
    with open_version(_existing_or_empty(store), reference, verify=False) as version:
        require_checkpoint(version)
        rename_classes(version.model, version.manifest.class_names, values["rename"])


def check_version(reference: str, store: StoreLocation) -> None:
    """Raise ModelStoreError if there is no such version of the store."""
    if not Path(reference).is_file():
        open_version(_existing_or_empty(store), reference, verify=False).close()


def _existing_or_empty(root: StoreLocation) -> ModelStore:
    # `run` and others create the store after these checks
    return open_store(root, may_appear=True)
