"""`import`: a network that was trained elsewhere becomes a sealed version."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from model_store.names import check_name
from model_store.store import ModelStore
from training.commands.options import PROMOTE, STORE, WAIVE, add_options, parse_waivers
from training.commands.run import print_published
from training.display import TrainingDisplay
from training.errors import GateError, TrainingError
from training.gates.gate import require_passed
from training.importing import presets
from training.importing.candidate import Candidate
from training.importing.input_options import Expectation
from training.importing.labels import read_labels
from training.importing.onnx_network import read_onnx
from training.importing.publication import Judged, judge, publish_import
from training.importing.torch_networks import RESIDUAL, read_torchvision, read_weights_file
from training.importing.verification import CHECKS, open_verification, verify
from training.steps.publish import create_store

FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
LARGEST: Final = 4096


class RefusedError(click.ClickException):
    """What can not be imported as it is."""

    exit_code = 2


def parse_number(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """A number; a fraction as 1/255 is one too."""
    return None if value is None else _numbers(value, 1)[0]


def parse_triple(
    _: click.Context, __: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    """Three numbers; one stands for all."""
    if value is None:
        return None
    numbers = _numbers(value, 3)
    return numbers * (3 // len(numbers))


def parse_size(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """(height, width) of a side, or of HEIGHTxWIDTH."""
    if value is None:
        return None
    height, _x, width = value.lower().partition("x")
    if not all(
        part.isascii() and part.isdecimal() and 1 <= int(part) <= LARGEST
        for part in (height, width or height)
    ):
        raise click.BadParameter(
            f"{value!r} is no size: expected 224 or 224x320, of 1 to {LARGEST} pixels"
        )
    return int(height), int(width or height)


def _numbers(value: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(_number(part) for part in value.split(","))
    except (ValueError, ZeroDivisionError):
        numbers = ()
    if len(numbers) not in {1, count}:
        raise click.BadParameter(
            f"{value!r} is not {'a number' if count == 1 else 'one number or three with commas between them'}"
        )
    return numbers


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / (float(denominator) if slash else 1.0)


def expectation_options(command: Any) -> Any:
    """What a person says of a network's pixels."""
    return add_options(
        command,
        click.option(
            "--preset",
            type=click.Choice(presets.NAMES),
            help="What it expects of pixels, by the family it is of.",
        ),
        click.option(
            "--timm-config",
            type=FILE,
            help="For --preset timm: the config.json that lies beside timm's weights.",
        ),
        click.option(
            "--layout",
            type=click.Choice(["NCHW", "NHWC"], case_sensitive=False),
            help="Where the channels stand.  [default: found in the file]",
        ),
        click.option(
            "--channels",
            type=click.Choice(["RGB", "BGR"], case_sensitive=False),
            help="Their order.",
        ),
        click.option(
            "--scale",
            callback=parse_number,
            help="Grey levels are multiplied by this: 1/255 gives 0 to 1.",
        ),
        click.option(
            "--mean",
            callback=parse_triple,
            help="Subtracted after that, in the network's own order of channels.",
        ),
        click.option("--std", callback=parse_triple, help="Divided by after that."),
        click.option(
            "--size",
            metavar="N|HxW",
            callback=parse_size,
            help="The size, where the file leaves it open.",
        ),
        click.option(
            "--resize", type=click.IntRange(1, 16384), help="The shorter side before the crop."
        ),
        click.option(
            "--resize-mode",
            type=click.Choice(["shorter-side", "exact"]),
            help="exact squeezes, and crops nothing.",
        ),
        click.option(
            "--interpolation", type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos"])
        ),
        click.option("--output", help="The output with the scores, where there are several."),
    )


@click.command(name="import")
@click.option(
    "--onnx", "onnx_file", type=FILE, help="An ONNX file, with its weights in it or beside it."
)
@click.option(
    "--torchvision", "torchvision_name", metavar="NAME", help=f"Pretrained: {', '.join(RESIDUAL)}."
)
@click.option(
    "--weights",
    type=FILE,
    help="A state dict (.safetensors, .pth) under torchvision's names; with --torchvision its file.",
)
@click.option("--arch", help="The network that --weights are of.")
@click.option(
    "--labels",
    type=FILE,
    help="The classes in the network's order: a name a line, a JSON list, or Keras's class index.",
)
@expectation_options
@click.option(
    "--verify",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Labelled images, a folder a class, called as its label: accuracy gate and golden proof.",
)
@click.option(
    "--min-accuracy",
    type=click.FloatRange(0, 1),
    help="Top-1 to reach on them.  [default: half-way from chance to 1]",
)
@click.option(
    "--golden-samples",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Images of --verify that are published in the version for its golden proof.",
)
@click.option("--model", required=True, help="The model's name in the store.")
@STORE
@click.option(
    "--keep-checkpoint/--no-checkpoint",
    default=True,
    show_default=True,
    help="Whether the version of a torch network holds its weights, to retrain from.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the report.  [default: MODEL-import.md]",
)
@WAIVE
@PROMOTE
@click.pass_obj
def import_network(
    console: Console,
    /,
    folder: Path | None,
    min_accuracy: float | None,
    golden_samples: int,
    model: str,
    store: Path,
    report: Path | None,
    waive: tuple[str, ...],
    *,
    keep_checkpoint: bool,
    promote: bool,
    **values: Any,
) -> None:
    """Import a network that was trained elsewhere: torchvision's own, a file of weights, or an ONNX file.

    What the network wants of pixels is put into the graph before it, so that the service treats it like any other. Every guess
    stands in a report, and what is sealed is held against the original. What no file says (mean, BGR, the order of classes)
    labelled images show: with --verify the version is proven; without, it is `unproven`, and `production` does not move to it.

    \b
    python -m training import --torchvision resnet50 --model resnet50
    python -m training import --onnx net.onnx --labels labels.txt --preset caffe --verify IMAGES --model net
    python -m training import --weights net.pth --arch resnet18 --labels labels.txt --model net
    """
    waivers, display, model_store = (
        parse_waivers(waive, CHECKS),
        TrainingDisplay(console),
        ModelStore(store),
    )
    check_name(model)
    target = report or Path(f"{model}-import.md")
    if not target.parent.is_dir():
        raise click.UsageError(f"--report {target}: there is no folder {target.parent}")
    with _refusals():
        create_store(model_store)
        display.announce("read")
        candidate = _read(values)
        verification = (
            open_verification(folder, candidate.class_names, min_accuracy) if folder else None
        )
        display.announce("verify")
        with display:
            verified = verify(
                candidate, verification, golden_samples, display.count("labelled images")
            )
        judged = judge(candidate, verified, waivers)
        _show(console, display, judged, target)
        require_passed(judged.checks)
        display.announce("publish")
        published = publish_import(
            judged, model_store, model, promote=promote, keep_checkpoint=keep_checkpoint
        )
    print_published(display, model, published, store)
    if judged.proof == "unproven":
        display.say(
            f"{model} version {published.version} is unproven: labelled images would prove it (--verify FOLDER)"
        )


def _read(values: dict[str, Any]) -> Candidate:
    onnx_file, name, weights = (values[key] for key in ("onnx_file", "torchvision_name", "weights"))
    if sum(source is not None for source in (onnx_file, name or weights)) != 1:
        raise click.UsageError(
            "give one of --onnx FILE, --torchvision NAME (with its --weights FILE where there is no network), --weights FILE"
        )
    if values["arch"] and (onnx_file or name):
        raise click.UsageError("--arch belongs to --weights alone")
    if not onnx_file and (strange := [option for option in ("layout", "output") if values[option]]):
        raise click.UsageError(
            f"--{strange[0]} belongs to --onnx: a torch network has one layout and one output"
        )
    if name:
        if values["labels"]:
            raise click.UsageError(
                "--torchvision brings its own labels; for others give --weights FILE --arch NAME --labels FILE"
            )
        return read_torchvision(name, weights, _expectation(values))
    if not values["labels"]:
        raise click.UsageError("the names of the classes are missing: give --labels FILE")
    labels = read_labels(values["labels"])
    if onnx_file:
        return read_onnx(onnx_file, labels, _expectation(values))
    return read_weights_file(weights, values["arch"], labels, _expectation(values))


def _expectation(values: dict[str, Any]) -> Expectation:
    preset_name, config = values["preset"], values["timm_config"]
    if (preset_name == presets.TIMM) != (config is not None):
        raise click.UsageError(
            "--preset timm takes its values from --timm-config FILE; give both or neither"
        )
    preset = (
        presets.read_timm(config)
        if config
        else presets.PRESETS[preset_name]
        if preset_name
        else None
    )
    names = (
        "layout",
        "channels",
        "scale",
        "mean",
        "std",
        "size",
        "resize",
        "interpolation",
        "output",
    )
    mode = values["resize_mode"]
    return Expectation(
        preset=preset,
        preset_name=preset_name or "",
        resize_mode=mode and mode.replace("-", "_"),
        **{name: values[name] for name in names},
    )


def _show(console: Console, display: TrainingDisplay, judged: Judged, target: Path) -> None:
    report = judged.candidate.report
    console.print(report.to_table())
    display.show_checks(judged.checks)
    target.write_text(report.to_markdown(judged.checks), encoding="utf-8")
    display.say(f"report: {target}")
    if judged.candidate.max_batch_size == 1:
        display.say(
            "the network takes single images alone, so it will be slow under load: export it with a free batch"
        )
    if report.assumed:
        display.say(f"only assumed, so look at it: {', '.join(report.assumed)}")


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What can not be imported ends with exit code 2, and a failed check, as elsewhere, with 1."""
    try:
        yield
    except GateError:
        raise
    except TrainingError as error:
        raise RefusedError(str(error)) from error
