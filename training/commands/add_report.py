"""The `add-report` command: publish a version again with a report and example images."""

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
    help="Labelled images, as for `run`: the test split is evaluated. May be repeated.  [default: "
    "the version's training data, if it can be found]",
)
@DATA_DIR
@click.option(
    "--examples",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Test images to publish as examples, one per class; 0 keeps those of the version.",
)
@STORE
@SIGN_KEY
@PROMOTE
@pass_console
def add_report(
    console: Console,
    model: str,
    data: tuple[str, ...],
    data_dir: Path | None,
    examples: int,
    store: StoreLocation,
    signing_key: SigningKey | None,
    *,
    promote: bool,
) -> None:
    """Publish MODEL or MODEL/VERSION with a report of its evaluation, as the next version.

    \b
    python -m training add-report flowers --data PICTURES

    `run` and `import --verify` publish a report themselves. This command is for versions without
    one. The report shows the accuracy, confusion matrix, worst mistakes and calibration on the test
    split, and some of its images. The weights and scores stay the same.
    """
    check_version(model, store)
    check_sources(data, data_dir)
    from training.commands.common import print_data_note, print_published
    from training.display import TrainingDisplay
    from training.quantization.publication import open_source_version
    from training.quantization.version_data import open_version_data
    from training.report_of_version import publish_with_report

    model_store = open_store(store, signing_key=signing_key)
    model_store.create()
    if not promote:
        check_no_promote(model_store, model.partition("/")[0])
    with open_source_version(model_store, model) as version, TrainingDisplay(console) as display:
        display.announce(f"report of {version}")
        run_data = open_version_data(version, data, data_dir, display.count("reading"))
        print_data_note(display, version, run_data)
        published, metrics = publish_with_report(
            version, run_data, model_store, examples, display.count("running"), promote=promote
        )
        display.say(f"test accuracy {metrics.top1:.2%} on {metrics.test_images:,} images")
        print_published(display, version.model, published, store)
