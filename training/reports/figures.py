"""Draws figures with matplotlib, as inline SVG in the colours of the page.

Colours are CSS variables, so figures follow the light and the dark theme.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from markupsafe import Markup, escape

from training.data.image_set import escape_unprintable
from training.reports.mistakes import ReliabilityBin
from training.reports.pages import TEMPLATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES_COLOURS: Final = 8
"""Number of line colours in the style of the page. Further lines are dashed."""

_INK, _RULE = "#010203", "#010204"
_SERIES: Final = tuple(f"#0102{16 + position}" for position in range(SERIES_COLOURS))
_COLOURS: Final = MappingProxyType(
    {_INK: "currentColor", _RULE: "var(--rule)"}
    | {colour: f"var(--series-{n})" for n, colour in enumerate(_SERIES, start=1)}
)
_STYLE: Final = MappingProxyType(
    {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _RULE,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _RULE,
        "grid.linewidth": 0.6,
        "xtick.color": _RULE,
        "ytick.color": _RULE,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
        "lines.linewidth": 1.6,
        "legend.frameon": False,
    }
)
_WIDTH, _HEIGHT = 4.4, 2.9  # inches
_MAX_MARKED_POINTS: Final = 12
_LOGARITHMIC_RATIO: Final = 20.0
_SURFACE_FLOOR, _SURFACE_LEVELS = 2.0**-7, 9


@dataclass(frozen=True)
class Line:
    """A curve. Points without a finite value are left out.

    Attributes:
        series: Number of the colour, from 0.
        spread: Height of a band below and above each point.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    series: int
    dashed: bool = False
    spread: Sequence[float] | None = None

    @property
    def points(self) -> list[tuple[float, float]]:
        """Points with a finite value."""
        return [
            (x, y)
            for x, y in zip(self.x, self.y, strict=True)
            if y is not None and math.isfinite(y)
        ]


def draw_lines(
    name: str,
    lines: Sequence[Line],
    *,
    x: str = "epoch",
    y: str | None = None,
    percent: bool = False,
    logarithmic: bool = False,
    limits: tuple[float | None, float | None] = (None, None),
    mark: tuple[float, str] | None = None,
    legend: bool = True,
) -> Markup | None:
    """Draw curves in one SVG element.

    Args:
        name: Name of the drawing for screen readers. It also makes its ids unique on a page.
        x: Label of the x axis.
        y: Label of the y axis.
        percent: Show values, which are shares from 0 to 1, as percentages.
        logarithmic: Use a logarithmic y axis if the values differ by a factor over 20.
        limits: Lower and upper end of the y axis. None fits the values.
        mark: Position and text of a vertical line.

    Returns:
        The SVG element, or None if no curve has a point.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        return None
    with _figure(_WIDTH, _HEIGHT) as figure:
        from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: PLC0415  as below

        axes = figure.add_subplot()
        values = [value for line in drawn for _, value in line.points]
        for line in drawn:
            _plot_line(axes, line)
        if logarithmic and min(values) > 0 and max(values) > _LOGARITHMIC_RATIO * min(values):
            axes.set_yscale("log")
        axes.set_ylim(*limits)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        whole = all(float(position).is_integer() for line in drawn for position in line.x)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=whole))
        if mark:
            axes.axvline(mark[0], color=_INK, linewidth=0.8, linestyle=":")
            _annotate(axes, mark)
        axes.set_xlabel(x)
        if y:
            axes.set_ylabel(y)
        if legend:
            axes.legend(fontsize=8.5, handlelength=2.6)
        return _svg(figure, name, f"{name}: {', '.join(line.label for line in drawn)} by {x}")


def _plot_line(axes: "Axes", line: Line) -> None:
    x, y = zip(*line.points, strict=True)
    colour = _SERIES[line.series % SERIES_COLOURS]
    axes.plot(
        x,
        y,
        "--" if line.dashed or line.series >= SERIES_COLOURS else "-",
        color=colour,
        label=line.label,
        marker="o" if len(x) <= _MAX_MARKED_POINTS else "",
        markersize=3.5,
    )
    if line.spread is not None and len(x) == len(line.x):
        below = [value - spread for value, spread in zip(y, line.spread, strict=True)]
        above = [value + spread for value, spread in zip(y, line.spread, strict=True)]
        axes.fill_between(x, below, above, color=colour, alpha=0.18, linewidth=0)


def draw_reliability(name: str, bins: Sequence[ReliabilityBin]) -> Markup:
    """Draw accuracy by confidence, and below it the number of images in each bin."""
    with _figure(_WIDTH, _WIDTH) as figure:
        from matplotlib.ticker import PercentFormatter  # noqa: PLC0415  as below

        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        middles = [(bin_.low + bin_.high) / 2 for bin_ in bins]
        widths = [0.92 * (bin_.high - bin_.low) for bin_ in bins]
        above.plot((0, 1), (0, 1), ":", color=_INK, linewidth=0.9)
        above.bar(
            middles, [bin_.accuracy for bin_ in bins], widths, color=_SERIES[0], label="accuracy"
        )
        gaps = [bin_.confidence - bin_.accuracy for bin_ in bins]
        above.bar(
            middles,
            gaps,
            widths,
            [bin_.accuracy for bin_ in bins],
            color=_SERIES[1],
            alpha=0.45,
            label="gap to confidence",
        )
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        above.yaxis.set_major_formatter(PercentFormatter(1.0))
        above.legend(loc="upper left", fontsize=8.5)
        below.bar(middles, [bin_.images for bin_ in bins], widths, color=_SERIES[0])
        below.set(xlabel="confidence", ylabel="images")
        below.xaxis.set_major_formatter(PercentFormatter(1.0))
        return _svg(
            figure,
            name,
            f"{name}: accuracy by confidence; the table has the same numbers",
        )


def draw_surfaces(
    name: str, coordinates: Sequence[float], surfaces: Mapping[str, Sequence[Sequence[float]]]
) -> Markup:
    """Draw contours of positive values side by side, at the same levels: powers of two.

    Args:
        name: As in `draw_lines`.
        coordinates: Values of x and of y.
        surfaces: By title, a row for each y with a value for each x.
    """
    values = [value for surface in surfaces.values() for row in surface for value in row]
    lowest, highest = (
        math.log2(max(bound, _SURFACE_FLOOR)) for bound in (min(values), max(values))
    )
    top = min(math.ceil(highest), math.floor(lowest) + _SURFACE_LEVELS)
    levels = [2.0**power for power in range(math.floor(lowest), top + 1)]
    with _figure(_WIDTH * 1.5, _HEIGHT * 1.1) as figure:
        from matplotlib.colors import to_rgba  # noqa: PLC0415  as below

        shades = [to_rgba(_SERIES[0], 0.08 + 0.82 * n / len(levels)) for n in range(len(levels))]
        panels = figure.subplots(1, len(surfaces), sharey=True, squeeze=False)[0]
        for axes, (title, surface) in zip(panels, surfaces.items(), strict=True):
            axes.contourf(coordinates, coordinates, surface, [*levels, math.inf], colors=shades)
            lines = axes.contour(
                coordinates, coordinates, surface, levels, colors=_INK, linewidths=0.6
            )
            axes.clabel(lines, fontsize=7, fmt=lambda value: f"{value:g}")
            axes.plot(0, 0, "+", color=_INK, markersize=8)
            axes.set(title=title, aspect="equal", xlabel="first direction")
            axes.grid(visible=False)
        panels[0].set_ylabel("second direction")
        return _svg(figure, name, f"{name}: {', '.join(surfaces)}; the table has the numbers")


def standalone(drawing: Markup) -> bytes:
    """The drawing as an SVG file that includes the colours of the page."""
    colours = (TEMPLATES / "colours.css").read_text(encoding="utf-8")
    svg_style = "svg { background: var(--paper); color: var(--ink); font-family: sans-serif; }"
    style = f"<style>{colours}{svg_style}</style>"
    head, end, body = drawing.partition(">")
    return f"{head}{end}{style}{body}\n".encode()


def _annotate(axes: "Axes", mark: tuple[float, str]) -> None:
    """Write the text of a mark at the top of its line, on the side with more space."""
    low, high = axes.get_xlim()
    left = mark[0] > (low + high) / 2
    axes.annotate(
        mark[1],
        (mark[0], 1.0),
        xytext=(-4 if left else 4, 1),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom",
        fontsize=8,
    )


@contextmanager
def _figure(width: float, height: float) -> Iterator["Figure"]:
    """An empty figure in the style of this module, independent of matplotlibrc. Sizes in inches."""
    import matplotlib as mpl  # noqa: PLC0415  takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(dict(_STYLE))  # type: ignore[arg-type]  # its keys are literals there
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: "Figure", name: str, description: str) -> Markup:
    """The figure as an SVG element: reproducible, and with ids that are unique on a page."""
    import matplotlib as mpl  # noqa: PLC0415  as above

    mpl.rcParams["svg.hashsalt"] = name
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
    )
    drawing = buffer.getvalue().partition("<svg ")[2]
    for colour, variable in _COLOURS.items():
        drawing = drawing.replace(colour, variable)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', drawing))
    drawing = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", drawing)
    drawing = re.sub(r' width="[^"]+" height="[^"]+"', "", drawing, count=1)
    drawing = re.sub(r" *font-family: [^;]*;|<style.*?</style>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"\s+", " ", drawing)
    label = escape(escape_unprintable(description))
    # matplotlib escapes the texts in `drawing`.
    return Markup(f'<svg role="img" aria-label="{label}" {drawing}')  # noqa: S704
