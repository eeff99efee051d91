"""The `quantize` command: publish a version in another precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click
from rich.console import Console

from model_store.manifest import Precision
from model_store.open_store import StoreLocation, open_store
from training.commands.early_checks import check_sources, check_version
from training.commands.options import DATA_DIR, PROMOTE, SIGN_KEY, STORE, pass_console, waive_option
from training.gates.waivers import VARIANT_CHECKS
from training.promotion import check_no_promote
from training.quantization.defaults import (
    DEFAULT_CALIBRATION_IMAGES,
    DEFAULT_MAX_LOSS,
    SWEEP_LAYERS,
)

if TYPE_CHECKING:
    from model_store.signature import SigningKey


@click.command()
@click.argument("model")
@click.option(
    "--precision",
    type=click.Choice([name for name in get_args(Precision) if name != "fp32"]),
    default="int8",
    show_default=True,
    help="int8 is for CPUs, fp16 and bf16 are for GPUs.",
)
@click.option(
    "--data",
    multiple=True,
    help="Labelled images, as for `run`. The train split calibrates, the validation split chooses "
    "layers, the test split is for the checks. May be repeated.  [default: the version's training "
    "data, if it can be found]",
)
@DATA_DIR
@click.option(
    "--max-loss",
    type=click.FloatRange(min=0, max=100),
    help="Percentage points of top-1 that may be lost on the test split.  [default: "
    f"{DEFAULT_MAX_LOSS}, or two images if these are more]",
)
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    default=DEFAULT_CALIBRATION_IMAGES,
    show_default=True,
    help="Number of training images that set the ranges of INT8 activations.",
)
@click.option(
    "--sweep/--no-sweep",
    default=None,
    help="Measure the drift of each layer in INT8, and leave the worst ones in fp32 until the loss "
    f"is acceptable.  [default: for up to {SWEEP_LAYERS} layers, for more only if the loss is too "
    "large]",
)
@STORE
@SIGN_KEY
@waive_option(VARIANT_CHECKS)
@PROMOTE
@pass_console
def quantize(
    console: Console,
    model: str,
    precision: Precision,
    data: tuple[str, ...],
    data_dir: Path | None,
    max_loss: float,
    calibration_images: int,
    store: StoreLocation,
    signing_key: SigningKey | None,
    waivers: dict[str, str],
    *,
    sweep: bool | None,
    promote: bool,
) -> None:
    """Publish MODEL or MODEL/VERSION in another precision, as the next version.

    \b
    python -m training quantize flowers --data PICTURES

    Without a version, the one of `production` is converted. The next version holds both files, and
    fp32 is unchanged. The service chooses between them (SERVICE_PRECISION).
    """
    check_version(model, store)
    check_sources(data, data_dir)
    from training.commands.common import print_data_note, print_published
    from training.commands.conversion import convert
    from training.display import TrainingDisplay
    from training.gates.gate import require_passed
    from training.quantization.publication import open_source_version, publish_variant
    from training.quantization.quantized_variant import QuantizationSettings
    from training.quantization.version_data import open_version_data

    model_store = open_store(store, signing_key=signing_key)
    model_store.create()
    settings = QuantizationSettings(precision, max_loss, calibration_images, sweep)
    if not promote:
        check_no_promote(model_store, model.partition("/")[0])
    with open_source_version(model_store, model) as version, TrainingDisplay(console) as display:
        display.announce(f"{precision} of {version}")
        run_data = open_version_data(version, data, data_dir, display.count("reading"))
        print_data_note(display, version, run_data)
        quantized = convert(display, version, run_data, settings, waivers)
        require_passed(quantized.checks)
        published = publish_variant(version, quantized, model_store, promote=promote)
        print_published(display, version.model, published, store)
