"""`retrain`: from what is published to the next version, when new pictures come."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from model_store.store import ModelStore
from training.commands.options import (
    DEVICE,
    PROMOTE,
    STORE,
    THREADS,
    WAIVE,
    build_request,
    parse_waivers,
    recipe_options,
)
from training.commands.run import finish, join_processes, start_or_rejoin
from training.run.request import RunRequest
from training.run.retraining import begin_retraining
from training.steps.publish import create_store


@click.command()
@click.argument("model")
@click.option(
    "--data",
    multiple=True,
    required=True,
    help="The pictures, as for `run`. May be repeated: old ones and new ones.",
)
@click.option("--as", "name", help="Publish under another name.  [default: MODEL]")
@recipe_options
@STORE
@WAIVE
@PROMOTE
@DEVICE
@THREADS
@click.pass_obj
def retrain(
    console: Console,
    /,
    model: str,
    data: tuple[str, ...],
    name: str | None,
    runs: Path,
    store: Path,
    waive: tuple[str, ...],
    device: str,
    threads: int | None,
    *,
    promote: bool,
    **values: Any,
) -> None:
    """Go on from MODEL (the version that `production` names) or MODEL/VERSION with new pictures, and publish the next version.

    The pictures may be of the same classes or have new ones; those that the model has must be among them. Old and new model are
    compared on the same test images, and the new one is published unless it is worse (McNemar's test). A running service
    picks it up by itself.

    \b
    python -m training retrain flowers --data PICTURES
    """
    waivers, model_store = parse_waivers(waive), ModelStore(store)
    create_store(model_store)
    wish: RunRequest = build_request(values, data=data, model=name)
    with join_processes(device, threads) as process:
        directory = start_or_rejoin(
            runs, process, lambda: begin_retraining(model, wish, runs, model_store)
        )
        finish(console, directory, model_store, waivers, process, promote=promote)
