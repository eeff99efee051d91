"""The `fit-density` command: publish a version again with a density, to abstain by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from model_store.open_store import StoreLocation, open_store
from training.commands.early_checks import check_sources, check_version
from training.commands.options import DATA_DIR, PROMOTE, SIGN_KEY, STORE, pass_console
from training.promotion import check_no_promote

if TYPE_CHECKING:
    from model_store.signature import SigningKey


@click.command()
@click.argument("model")
@click.option(
    "--data",
    multiple=True,
    help="Labelled images, as for `run`: the train split fits the density, the validation split "
    "its threshold, the test split checks it. May be repeated.  [default: the version's training "
    "data, if it can be found]",
)
@DATA_DIR
@STORE
@SIGN_KEY
@PROMOTE
@pass_console
def fit_density(
    console: Console,
    model: str,
    data: tuple[str, ...],
    data_dir: Path | None,
    store: StoreLocation,
    signing_key: SigningKey | None,
    *,
    promote: bool,
) -> None:
    """Publish MODEL or MODEL/VERSION with a density to abstain by, as the next version.

    \b
    python -m training fit-density flowers --data PICTURES

    `run` fits a density itself. This command is for versions of older releases and for imports. The
    scores stay the same. A version without the output `embedding` gets it.
    """
    check_version(model, store)
    check_sources(data, data_dir)
    from training.commands.common import print_data_note, print_published
    from training.density_of_version import publish_with_density
    from training.display import TrainingDisplay
    from training.quantization.publication import open_source_version
    from training.quantization.version_data import open_version_data

    model_store = open_store(store, signing_key=signing_key)
    model_store.create()
    if not promote:
        check_no_promote(model_store, model.partition("/")[0])
    with open_source_version(model_store, model) as version, TrainingDisplay(console) as display:
        display.announce(f"density of {version}")
        run_data = open_version_data(version, data, data_dir, display.count("reading"))
        print_data_note(display, version, run_data)
        published, check = publish_with_density(
            version, run_data, model_store, display.count("running"), promote=promote
        )
        display.show_checks((check,))
        print_published(display, version.model, published, store)
