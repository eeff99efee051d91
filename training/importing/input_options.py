"""What a person says of a network's pixels, held against what its file says: layout, range, size and resize."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from onnx import TensorProto

from model_store.manifest import Interpolation, Preprocessing
from training.errors import ForeignModelError
from training.importing.foreign_file import ForeignFile
from training.importing.import_report import ImportReport
from training.importing.input_spec import Channels, Convention, Layout, PixelRange, Triple
from training.importing.presets import PRESETS, Geometry, Preset, make_preprocessing

Stated = Literal["given", "found", "assumed"]


@dataclass(frozen=True)
class Expectation:
    """What the person says of the network's pixels: a preset, and single values that go before it.

    Where the import itself has put in a preset or a size, its evidence says why; such a size is assumed.
    """

    preset: Preset | None = None
    preset_name: str = ""
    preset_certainty: Stated = "given"
    preset_evidence: str = ""
    layout: Layout | None = None
    channels: Channels | None = None
    scale: float | None = None
    mean: Triple | None = None
    std: Triple | None = None
    size: tuple[int, int] | None = None
    resize: int | None = None
    resize_mode: Literal["shorter_side", "exact"] | None = None
    interpolation: Interpolation | None = None
    output: str | None = None
    size_evidence: str = ""

    @property
    def told(self) -> dict[str, Any]:
        """What of the range was said by flags."""
        names = ("channels", "scale", "mean", "std")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def range(self) -> PixelRange:
        """The preset's, with what flags say instead. Raises ForeignModelError for one that no pixel can be brought to."""
        values = replace(self.preset.range if self.preset else PixelRange(), **self.told)
        if not all(np.isfinite([values.scale, *values.mean, *values.std])) or 0 in {
            values.scale,
            *values.std,
        }:
            raise ForeignModelError(f"pixels can not be brought to this range: {values}")
        return values

    @property
    def preset_source(self) -> str:
        """Where the preset comes from, in words."""
        return self.preset_evidence or f"--preset {self.preset_name}"

    @property
    def range_certainty(self) -> Stated:
        """The preset's, unless flags say the whole range."""
        return "given" if {"scale", "mean", "std"} <= self.told.keys() else self.preset_certainty

    def source(self) -> str:
        """Where the range comes from, in words."""
        source = self.preset_source if self.preset else "by flags"
        changed = f", with --{', --'.join(self.told)}" if self.preset and self.told else ""
        return f"{source}{changed}; check it with labelled images (--verify)"


def find_convention(
    file: ForeignFile, expectation: Expectation, report: ImportReport
) -> Convention:
    """Layout, type and range of the network's pixels.

    Raises ForeignModelError where they can not be known, or contradict the file.
    """
    layout = _find_layout(file, expectation, report)
    preset = expectation.preset
    told = expectation.told
    if file.input.dtype == TensorProto.UINT8:
        if told.keys() - {"channels"}:
            raise ForeignModelError(
                f"{file.path} takes grey levels as bytes, so --{min(told.keys() - {'channels'})} can not be right for it"
            )
        channels = expectation.channels or (preset.range.channels if preset else None)
        report.add(
            "range",
            "0 to 255",
            "found",
            "the input is uint8: what the network does to its pixels stands inside it",
        )
        certainty: Literal["given", "assumed"] = "given" if channels else "assumed"
        report.add(
            "channels",
            channels or "RGB",
            certainty,
            "" if channels else "give --channels bgr where it was trained with OpenCV's order",
        )
        return Convention(layout, file.input.dtype, PixelRange(channels or "RGB"))
    if preset is None and not told:
        raise ForeignModelError(
            f"{file.path} takes floats, and no file says how grey levels become those: give --preset ({', '.join(PRESETS)}, timm) "
            "or --scale, --mean, --std and --channels"
        )
    values = expectation.range()
    report.add("range", values, "given", f"{expectation.source()}: it can not be seen in a file")
    if not preset and expectation.channels is None:
        report.add("channels", "RGB", "assumed", "no --channels and no --preset was given")
    return Convention(layout, file.input.dtype, values)


def _find_layout(file: ForeignFile, expectation: Expectation, report: ImportReport) -> Layout:
    shape = file.input.shape
    layouts: tuple[tuple[Layout, int], ...] = (("NCHW", 1), ("NHWC", 3))
    possible = [layout for layout, axis in layouts if shape is None or shape[axis] in {3, None}]
    if not possible:
        raise ForeignModelError(
            f"{file.path}: the input {file.input} has no axis of three channels; only colour images are served"
        )
    if expectation.layout:
        if expectation.layout not in possible:
            raise ForeignModelError(
                f"{file.path}: the input {file.input} is not {expectation.layout}; leave --layout away, or turn it"
            )
        report.add("layout", expectation.layout, "given", f"the input is {file.input}")
        return expectation.layout
    certain: list[Layout] = [
        layout
        for layout in possible
        if shape is not None and shape[1 if layout == "NCHW" else 3] == 3
    ]
    if len(certain) == 1:
        report.add("layout", certain[0], "found", f"three channels in the input {file.input}")
        return certain[0]
    raise ForeignModelError(
        f"{file.path}: the input {file.input} may be NCHW or NHWC; say which with --layout"
    )


def find_geometry(
    in_file: tuple[int | None, int | None],
    described: str,
    expectation: Expectation,
    report: ImportReport,
) -> Preprocessing:
    """How images come to the network's size, of which a file says what is fixed (`in_file`, height and width).

    Raises ForeignModelError where that is not known, or not possible.
    """
    asked = expectation.size or (expectation.preset.size if expectation.preset else None)
    if asked is None and None in in_file:
        raise ForeignModelError(f"{described} leaves its size open; say it with --size")
    height, width = (
        int(found or given) for found, given in zip(in_file, asked or (0, 0), strict=True)
    )
    if expectation.size and (height, width) != expectation.size:
        raise ForeignModelError(
            f"{described} is {height}x{width}, and --size says {expectation.size[0]}x{expectation.size[1]}"
        )
    report.add(
        "size",
        f"{height}x{width}",
        _size_certainty(in_file, expectation),
        expectation.size_evidence or described,
    )
    preset = expectation.preset
    geometry = preset.geometry if preset else Geometry()
    spec = geometry.at(height, width)
    told = {
        name: given
        for name in ("resize", "resize_mode", "interpolation")
        if (given := getattr(expectation, name)) is not None
    }
    if told:
        mode = told.get("resize_mode", "shorter_side" if expectation.resize else spec.resize_mode)
        resize = expectation.resize or (
            spec.resize if mode == spec.resize_mode else max(height, width)
        )
        spec = make_preprocessing(
            mode, resize, height, width, told.get("interpolation", spec.interpolation)
        )
    how = (
        f"{spec.resize_mode} to {spec.resize}"
        if spec.resize_mode == "shorter_side"
        else "squeezed to the input's size"
    )
    wholly_told = "interpolation" in told and bool({"resize", "resize_mode"} & told.keys())
    if wholly_told:
        report.add("resize", f"{how}, {spec.interpolation}", "given", "by flags")
    elif preset and preset.says_geometry:
        changed = "".join(f", with --{name.replace('_', '-')}" for name in told)
        report.add(
            "resize",
            f"{how}, {spec.interpolation}",
            expectation.preset_certainty,
            f"{expectation.preset_source}{changed}",
        )
    else:
        evidence = "nothing says how its images were resized; --resize, --resize-mode and --interpolation do"
        report.add("resize", f"{how}, {spec.interpolation}", "assumed", evidence)
    return spec


def _size_certainty(in_file: tuple[int | None, int | None], expectation: Expectation) -> Stated:
    if None not in in_file:
        return "found"
    if expectation.size:
        return "assumed" if expectation.size_evidence else "given"
    return expectation.preset_certainty


def other_readings(convention: Convention) -> dict[str, Convention]:
    """Other expectations, by name, that a labelled image would tell from this one: the channels turned, and each preset's range.

    Each once: what reads pixels as this one, or as another of them, is no other reading.
    """
    channels: Channels = "RGB" if convention.range.channels == "BGR" else "BGR"
    own = convention.range
    turned = {
        f"{channels} instead": replace(
            own, channels=channels, mean=own.mean[::-1], std=own.std[::-1]
        )
    }
    presets = {
        f"--preset {name}": preset.range
        for name, preset in PRESETS.items()
        if convention.dtype != TensorProto.UINT8
    }
    ranges: dict[str, PixelRange] = {}
    for name, values in (turned | presets).items():
        if not any(values.equals(known) for known in (own, *ranges.values())):
            ranges[name] = values
    return {name: replace(convention, range=values) for name, values in ranges.items()}
