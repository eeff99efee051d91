"""`quantize`: a published version in another precision."""

from pathlib import Path
from typing import get_args

import click
from rich.console import Console

from model_store.manifest import Precision
from model_store.store import ModelStore
from training.commands.options import DATA_DIR, PROMOTE, STORE, WAIVE, parse_waivers
from training.commands.run import print_published
from training.display import TrainingDisplay, sensitivity_table
from training.gates import gate as gates
from training.quantization.checks import CHECKS, MAX_LOSS
from training.quantization.variants import (
    CALIBRATION_IMAGES,
    SWEEP_LAYERS,
    Settings,
    make_variant,
    opened_source,
    publish_variant,
)
from training.quantization.version_data import open_labelled, same_data
from training.steps.publish import create_store, require_promotable


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
    help="Labelled images, as for `run`: train calibrates, validation chooses layers, test gates. "
    "May be repeated.  [default: what the version was trained on, where it is found]",
)
@DATA_DIR
@click.option(
    "--max-loss",
    type=click.FloatRange(min=0, max=100),
    help=f"Points of top-1 that may be lost on the test split.  [default: {MAX_LOSS}, or two images where these are more]",
)
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    default=CALIBRATION_IMAGES,
    show_default=True,
    help="Training images whose activations give INT8 its ranges.",
)
@click.option(
    "--sweep/--no-sweep",
    default=None,
    help="Measure how far each layer alone drifts in INT8, and leave those that hurt in "
    f"fp32 until the loss holds.  [default: measure up to {SWEEP_LAYERS} layers, more only where the loss does not hold]",
)
@STORE
@WAIVE
@PROMOTE
@click.pass_obj
def quantize(
    console: Console,
    model: str,
    precision: Precision,
    data: tuple[str, ...],
    data_dir: Path | None,
    max_loss: float,
    calibration_images: int,
    store: Path,
    waive: tuple[str, ...],
    *,
    sweep: bool | None,
    promote: bool,
) -> None:
    """Publish MODEL (the version that `production` names) or MODEL/VERSION in another precision too, as the next version.

    The next version holds both files, fp32 unchanged to the byte. Which one answers, the service decides (SERVICE_PRECISION).

    \b
    python -m training quantize flowers --data PICTURES
    """
    waivers, model_store = parse_waivers(waive, CHECKS), ModelStore(store)
    create_store(model_store)
    settings = Settings(precision, max_loss, calibration_images, sweep)
    if not promote:
        require_promotable(model_store, model.partition("/")[0])
    with opened_source(model_store, model) as version, TrainingDisplay(console) as display:
        display.announce(f"{precision} of {version}")
        labelled = open_labelled(version, data, data_dir, display.count("reading"))
        if not same_data(version, labelled):
            display.say(
                f"note: {labelled.images.name} is not what {version} was trained on, to the pixel; figures are of these images"
            )
        made = make_variant(version, labelled, settings, waivers, display.count)
        if made.sensitivities:
            display.show(sensitivity_table(made.sensitivities, made.kept))
        display.show_checks(made.checks)
        before, after = made.top1
        display.say(
            f"test accuracy {after:.2%} in {precision}, {before:.2%} in fp32, of {len(labelled.split.test):,} images"
        )
        gates.require_passed(made.checks)
        published = publish_variant(version, made, model_store, promote=promote)
        print_published(display, version.model, published, store)
