"""The options of `import` that describe the network's input."""

from pathlib import Path
from typing import Any, Final

import click

from training.commands.geometry_options import PADDING, ImageSize, resize_mode_option
from training.commands.options import add_options
from training.importing.preset_names import PRESET_NAMES

EXISTING_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
MAX_SIDE: Final = 4096


def parse_number(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Parse a number or a fraction such as 1/255."""
    return None if value is None else _parse_numbers(value, 1)[0]


def parse_triple(
    _: click.Context, __: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    """Parse three numbers, or one number for all three channels."""
    if value is None:
        return None
    numbers = _parse_numbers(value, 3)
    return numbers * (3 // len(numbers))


def _parse_numbers(value: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(_parse_fraction(part) for part in value.split(","))
    except (ValueError, ZeroDivisionError):
        numbers = ()
    if len(numbers) not in {1, count}:
        expected = "a number" if count == 1 else "1 number, or 3 separated by commas"
        raise click.BadParameter(f"must be {expected}, got {value!r}")
    return numbers


def _parse_fraction(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / (float(denominator) if slash else 1.0)


def input_options(command: Any) -> Any:
    """Add the options that describe the network's input."""
    return add_options(
        command,
        click.option(
            "--preset",
            type=click.Choice(PRESET_NAMES),
            help="Pixel range and resize of a common family of networks.",
        ),
        click.option(
            "--timm-config",
            type=EXISTING_FILE,
            help="The config.json of timm's weights, for --preset timm.",
        ),
        click.option(
            "--layout",
            type=click.Choice(["NCHW", "NHWC"], case_sensitive=False),
            help="Axis order of the input.  [default: found in the file]",
        ),
        click.option(
            "--channels",
            type=click.Choice(["RGB", "BGR"], case_sensitive=False),
            help="Channel order of the input.",
        ),
        click.option(
            "--scale",
            callback=parse_number,
            help="Factor of the grey levels 0 to 255; 1/255 gives 0 to 1.",
        ),
        click.option(
            "--mean",
            callback=parse_triple,
            help="Subtracted after scaling; 1 number, or 3 in the network's channel order.",
        ),
        click.option(
            "--std", callback=parse_triple, help="Divides after the mean; numbers as for --mean."
        ),
        click.option(
            "--size",
            type=ImageSize(1, MAX_SIDE),
            help="Input size in pixels, if the file does not state it.",
        ),
        click.option(
            "--resize",
            type=ImageSize(1, 16384),
            help="Size before the crop, in pixels.",
        ),
        resize_mode_option("that of the preset, shorter-side with --resize, else exact"),
        PADDING,
        click.option(
            "--interpolation",
            type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos"]),
            help="Interpolation of the resize.",
        ),
        click.option("--output", help="The output with the scores, if there are several."),
    )
