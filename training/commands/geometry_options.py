"""Options for the size of a network's input, and for how an image gets this size."""

from collections.abc import Callable
from typing import Any, Final, get_args

import click

from model_store.manifest import ResizeMode


class ImageSize(click.ParamType[tuple[int, int]]):
    """`N` or `HxW` in pixels. The value is (height, width)."""

    name = "N|HxW"

    def __init__(self, smallest: int, largest: int) -> None:
        self.smallest, self.largest = smallest, largest

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        height, x, width = value.lower().partition("x")
        sides = (height, width if x else height)
        if not all(
            is_number(side) and self.smallest <= int(side) <= self.largest for side in sides
        ):
            self.fail(
                f"must be 224 or 224x320 (height x width), {self.smallest} to {self.largest} "
                f"pixels, got {value!r}",
                param,
                ctx,
            )
        return int(sides[0]), int(sides[1])


class RGBColour(click.ParamType[tuple[int, int, int]]):
    """`R,G,B`, or one grey level. The value is a triple of 0 to 255."""

    name = "R,G,B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int, int]:
        levels = value.split(",")
        if len(levels) not in {1, 3} or not all(
            is_number(level) and int(level) <= 255 for level in levels
        ):
            self.fail(f"must be R,G,B or one grey level, 0 to 255, got {value!r}", param, ctx)
        red, green, blue = (int(level) for level in levels * (3 // len(levels)))
        return red, green, blue


def is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _with_underscores(_: click.Context, __: click.Parameter, mode: str | None) -> str | None:
    return mode and mode.replace("-", "_")


IMAGE_SIZE: Final = click.option(
    "--image-size",
    type=ImageSize(8, 1024),
    help="Input size in pixels: one side, or height x width.  [default: that of the data or the "
    "network]",
)


def resize_mode_option(default: str) -> Callable[..., Any]:
    return click.option(
        "--resize-mode",
        type=click.Choice([mode.replace("_", "-") for mode in get_args(ResizeMode)]),
        callback=_with_underscores,
        help="How an image gets the size: shorter-side covers it and crops the centre, exact "
        f"squeezes, letterbox fits into it and pads.  [default: {default}]",
    )


RESIZE_MODE: Final = resize_mode_option("shorter-side")
PADDING: Final = click.option(
    "--padding",
    type=RGBColour(),
    help="Colour around the image with --resize-mode letterbox.  [default: 0,0,0]",
)
