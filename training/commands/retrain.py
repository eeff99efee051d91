"""`retrain`: trains a published version further on new images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from model_store.open_store import StoreLocation, open_store
from training.commands.compute_options import ComputeOptions, compute_options
from training.commands.early_checks import check_model_name, check_retraining
from training.commands.options import (
    INT8,
    PROMOTE,
    SIGN_KEY,
    STORE,
    build_request,
    pass_console,
    recipe_options,
    waive_option,
)
from training.gates.waivers import RUN_CHECKS

if TYPE_CHECKING:
    from model_store.signature import SigningKey


@click.command()
@click.argument("version", metavar="MODEL[/VERSION]")
@click.option(
    "--data",
    multiple=True,
    required=True,
    help="The images, as for `run`. Repeatable: old images and new ones.",
)
@click.option(
    "--rename",
    multiple=True,
    metavar="OLD=NEW",
    help="The class OLD of the model has the name NEW in the data. Repeatable.",
)
@click.option(
    "--model",
    "--as",
    "model",
    callback=check_model_name,
    help="Publish under this name.  [default: the same model]",
)
@recipe_options
@STORE
@SIGN_KEY
@waive_option(RUN_CHECKS)
@PROMOTE
@INT8
@compute_options
@pass_console
def retrain(
    console: Console,
    /,
    version: str,
    runs: Path,
    store: StoreLocation,
    signing_key: SigningKey | None,
    waivers: dict[str, str],
    compute: ComputeOptions,
    *,
    promote: bool,
    int8: bool,
    **values: Any,
) -> None:
    """Train a published version further on new images, and publish the next version.

    \b
    python -m training retrain flowers --data PICTURES

    Without /VERSION, it trains the version of `production`. The data must contain every class
    of the model, and may contain new ones. A renamed class needs --rename. The new model is
    published unless it is worse on the same test images (McNemar's test). A running service loads
    it without a restart.
    """
    check_retraining(version, store, values)
    from training.commands.common import join_processes
    from training.commands.run import finish_run
    from training.run.launch import start_shared_run

    model_store = open_store(store, signing_key=signing_key)
    model_store.create()
    request = build_request(values, retrain=version)
    with join_processes(compute) as process:
        run, images = start_shared_run(request, runs, model_store, process)
        finish_run(
            console, run, model_store, waivers, process, promote=promote, int8=int8, images=images
        )
