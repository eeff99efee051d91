"""Combines what the user states about a network's input with what its file states."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from onnx import TensorProto

from model_store.geometry import describe_geometry
from model_store.manifest import Colour, Interpolation, Preprocessing, ResizeMode
from training.errors import ForeignModelError
from training.importing.foreign_file import ForeignFile
from training.importing.import_report import ImportReport
from training.importing.input_spec import Channels, InputSpec, Layout, PixelRange, Triple
from training.importing.presets import CLASSIC_CROP, PRESETS, Geometry, Preset

OptionCertainty = Literal["given", "found", "assumed"]


@dataclass(frozen=True)
class InputOptions:
    """A preset, and single values that override it.

    The import itself may set a default preset or size. `preset_evidence` or `size_evidence` then
    states the reason, and the report lists a default size as assumed.
    """

    preset: Preset | None = None
    preset_name: str = ""
    preset_certainty: OptionCertainty = "given"
    preset_evidence: str = ""
    layout: Layout | None = None
    channels: Channels | None = None
    scale: float | None = None
    mean: Triple | None = None
    std: Triple | None = None
    size: tuple[int, int] | None = None
    resize: tuple[int, int] | None = None
    resize_mode: ResizeMode | None = None
    interpolation: Interpolation | None = None
    padding: Colour | None = None
    output: str | None = None
    size_evidence: str = ""

    @property
    def range_flags(self) -> dict[str, Any]:
        """Fields of `PixelRange` that flags set."""
        return self._given("channels", "scale", "mean", "std")

    @property
    def geometry_flags(self) -> dict[str, Any]:
        """Fields of the resize that flags set."""
        return self._given("resize", "resize_mode", "interpolation", "padding")

    def _given(self, *names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def pixel_range(self) -> PixelRange:
        """The preset's range, overridden by flags. Raises ForeignModelError if it is not usable."""
        values = replace(self.preset.range if self.preset else PixelRange(), **self.range_flags)
        divisors = {values.scale, *values.std}
        if not np.isfinite([values.scale, *values.mean, *values.std]).all() or 0 in divisors:
            raise ForeignModelError(
                f"the pixel range {values} is not usable: --scale, --mean and --std must be "
                "finite, and --scale and --std must not be 0"
            )
        return values

    @property
    def preset_source(self) -> str:
        return self.preset_evidence or f"--preset {self.preset_name}"

    @property
    def range_certainty(self) -> OptionCertainty:
        """The preset's certainty, or "given" if flags state the whole range."""
        complete = {"scale", "mean", "std"} <= self.range_flags.keys()
        return "given" if complete else self.preset_certainty

    def range_source(self) -> str:
        """Where the pixel range comes from, for the report."""
        flags = ", ".join(f"--{name}" for name in self.range_flags)
        if self.preset is None:
            source = "by flags"
        else:
            source = f"{self.preset_source}, with {flags}" if flags else self.preset_source
        return f"{source}; confirm it with labelled images (--verify)"


def find_input_spec(file: ForeignFile, options: InputOptions, report: ImportReport) -> InputSpec:
    """The layout, element type and pixel range of an ONNX network.

    Raises ForeignModelError if one of them is unknown or contradicts the file.
    """
    layout = _find_layout(file, options, report)
    if file.input.dtype == TensorProto.UINT8:
        return InputSpec(layout, file.input.dtype, _byte_range(file, options, report))
    if options.preset is None and not options.range_flags:
        raise ForeignModelError(
            f"{file.path} takes floats, and an ONNX file does not state their range; give "
            f"--preset ({', '.join(PRESETS)}, timm) or --scale, --mean, --std and --channels"
        )
    values = options.pixel_range()
    report.add("range", values, "given", f"{options.range_source()}: a file does not state it")
    if not options.preset and options.channels is None:
        report.add("channels", "RGB", "assumed", "neither --channels nor --preset was given")
    return InputSpec(layout, file.input.dtype, values)


def _byte_range(file: ForeignFile, options: InputOptions, report: ImportReport) -> PixelRange:
    if flags := options.range_flags.keys() - {"channels"}:
        raise ForeignModelError(
            f"{file.path} takes uint8 grey levels from 0 to 255, so --{min(flags)} does not "
            "apply; omit it"
        )
    channels = options.channels or (options.preset.range.channels if options.preset else None)
    report.add("range", "0 to 255", "found", "the input is uint8; the network scales it itself")
    if channels:
        report.add("channels", channels, "given", "")
    else:
        report.add("channels", "RGB", "assumed", "a network trained with OpenCV needs --channels")
    return PixelRange(channels or "RGB")


def _find_layout(file: ForeignFile, options: InputOptions, report: ImportReport) -> Layout:
    shape = file.input.shape
    layouts: tuple[tuple[Layout, int], ...] = (("NCHW", 1), ("NHWC", 3))
    possible = [layout for layout, axis in layouts if shape is None or shape[axis] in {3, None}]
    certain = [layout for layout, axis in layouts if shape is not None and shape[axis] == 3]
    if not possible:
        raise ForeignModelError(
            f"{file.path}: the input {file.input} has no axis of 3 channels, and only colour "
            "images are served; export a network for RGB or BGR images"
        )
    if options.layout:
        if options.layout not in possible:
            raise ForeignModelError(
                f"{file.path}: the input {file.input} is {possible[0]}, but --layout is "
                f"{options.layout}; omit --layout"
            )
        report.add("layout", options.layout, "given", f"the input is {file.input}")
        return options.layout
    if len(certain) == 1:
        report.add("layout", certain[0], "found", f"3 channels in the input {file.input}")
        return certain[0]
    raise ForeignModelError(
        f"{file.path}: the input {file.input} can be NCHW or NHWC; state it with --layout"
    )


def find_preprocessing(
    file_size: tuple[int | None, int | None],
    described: str,
    options: InputOptions,
    report: ImportReport,
) -> Preprocessing:
    """Decide how images are resized and cropped to the network's input size.

    Args:
        file_size: The height and width that the file states; None where it leaves them open.
        described: Description of the input for messages.

    Raises:
        ForeignModelError: If the size is unknown, contradictory or does not fit the resize.
    """
    height, width = _find_size(file_size, described, options, report)
    geometry = options.preset.geometry if options.preset else Geometry()
    mode = options.resize_mode or ("shorter_side" if options.resize else geometry.mode)
    if options.padding and mode != "letterbox":
        raise ForeignModelError("--padding needs --resize-mode letterbox; omit it, or give both")
    geometry = Geometry(
        geometry.crop_share if mode == geometry.mode else 1.0,
        mode,
        options.interpolation or geometry.interpolation,
        options.padding or geometry.padding,
    )
    preprocessing = geometry.at(height, width, options.resize)
    method = f"{describe_geometry(preprocessing)}, {preprocessing.interpolation}"
    certainty, evidence = _geometry_source(options)
    report.add("resize", method, certainty, evidence)
    return preprocessing


def _find_size(
    file_size: tuple[int | None, int | None],
    described: str,
    options: InputOptions,
    report: ImportReport,
) -> tuple[int, int]:
    stated = options.size or (options.preset.size if options.preset else None)
    if stated is None and None in file_size:
        raise ForeignModelError(f"{described} does not state its size; give it with --size")
    height, width = (
        int(in_file or option) for in_file, option in zip(file_size, stated or (0, 0), strict=True)
    )
    if options.size and (height, width) != options.size:
        raise ForeignModelError(
            f"{described} is {height}x{width}, but --size is "
            f"{options.size[0]}x{options.size[1]}; omit --size"
        )
    if None not in file_size:
        certainty: OptionCertainty = "found"
    elif options.size:
        certainty = "assumed" if options.size_evidence else "given"
    else:
        certainty = options.preset_certainty
    report.add("size", f"{height}x{width}", certainty, options.size_evidence or described)
    return height, width


def _geometry_source(options: InputOptions) -> tuple[OptionCertainty, str]:
    flags = options.geometry_flags
    if "interpolation" in flags and {"resize", "resize_mode"} & flags.keys():
        return "given", "by flags"
    if options.preset and options.preset.states_geometry:
        overridden = "".join(f", with --{name.replace('_', '-')}" for name in flags)
        return options.preset_certainty, f"{options.preset_source}{overridden}"
    return "assumed", "not stated; set it with --resize, --resize-mode and --interpolation"


def alternative_specs(spec: InputSpec) -> dict[str, InputSpec]:
    """Other input specs to try on labelled images, by name: swapped channels, each preset's range.

    A range that equals the one of `spec` or of an earlier alternative is left out.
    """
    own = spec.range
    channels: Channels = "RGB" if own.channels == "BGR" else "BGR"
    swapped = replace(own, channels=channels, mean=own.mean[::-1], std=own.std[::-1])
    candidates = {f"{channels} instead": swapped}
    if spec.dtype != TensorProto.UINT8:
        candidates |= {f"--preset {name}": preset.range for name, preset in PRESETS.items()}
    ranges: dict[str, PixelRange] = {}
    for name, values in candidates.items():
        if not any(values.equals(known) for known in (own, *ranges.values())):
            ranges[name] = values
    return {name: replace(spec, range=values) for name, values in ranges.items()}


def other_geometries(
    preprocessing: Preprocessing, options: InputOptions
) -> dict[str, Preprocessing]:
    """Other geometries to try on labelled images, by the flags that choose them.

    There are none if the weights are known, and with them how their author resized images.
    """
    if _geometry_source(options)[0] == "found":
        return {}
    height, width = preprocessing.crop_height, preprocessing.crop_width
    covering = Geometry(1.0, "shorter_side", preprocessing.interpolation)
    target = Geometry(CLASSIC_CROP).target(height, width)
    return {
        "--resize-mode exact": replace(covering, mode="exact").at(height, width),
        "--resize-mode shorter-side": covering.at(height, width),
        f"--resize-mode shorter-side --resize {target[0]}x{target[1]}": covering.at(
            height, width, target
        ),
        "--resize-mode letterbox": replace(covering, mode="letterbox").at(height, width),
    }
