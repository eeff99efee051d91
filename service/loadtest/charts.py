"""Charts of latency by percentile and of latency by throughput. Needs the extra `tune`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    LogLocator,
    NullLocator,
    StrMethodFormatter,
)

from service.loadtest.engine_measurement import EngineMeasurement
from service.loadtest.load_generator import RequestSample
from service.loadtest.load_report import latency_ms, without_warm_up
from service.loadtest.settings_search import Curve

COLOURS: Final = 10
PERCENTILE_POINTS: Final = 500
_STYLE: Final = MappingProxyType(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.9",
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "legend.frameon": False,
        "svg.hashsalt": "resident",
    }
)
_PERCENTILES: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


def draw_load(samples: Sequence[RequestSample], title: str, path: Path, *, over_time: bool) -> None:
    """Plot latency by percentile, with a stretched tail. `over_time` also plots all requests."""
    answered = [sample for sample in without_warm_up(samples) if sample.error is None]
    failed = [sample for sample in without_warm_up(samples) if sample.error is not None]
    with _saved_figure(path, 8.8 if over_time else 5.0, 3.4, title) as figure:
        left, *right = figure.subplots(1, 1 + over_time, squeeze=False)[0]
        _draw_percentiles(left, answered)
        for axes in right:
            for group, label, style in ((answered, "answered", "."), (failed, "not answered", "x")):
                if group:
                    axes.plot(
                        [sample.due for sample in group],
                        latency_ms(group),
                        style,
                        markersize=3,
                        alpha=0.5,
                        label=label,
                        rasterized=True,
                    )
            axes.set(xlabel="due at (s)", ylabel="latency (ms)")
            axes.set_ylim(bottom=0)
            if failed:
                axes.legend()


def draw_tuning(
    curves: Sequence[Curve], chosen: EngineMeasurement, p99_ms: float | None, title: str, path: Path
) -> None:
    """Plot p99 latency by throughput: a line per curve, points labelled with the batch size."""
    with _saved_figure(path, 6.4, 4.4, title) as figure:
        axes = figure.subplots()
        for number, curve in enumerate(curves):
            x = [point.images_per_second for point in curve.points]
            y = [point.percentile_ms(99) for point in curve.points]
            axes.plot(x, y, "o-" if number < COLOURS else "s--", markersize=4, label=curve.name)
            for point, at in zip(curve.points, zip(x, y, strict=True), strict=True):
                size = "alone" if point.setting.alone else str(point.setting.max_batch_size)
                axes.annotate(
                    size, at, xytext=(4, -9), textcoords="offset points", fontsize=7, color="0.4"
                )
        axes.plot(
            chosen.images_per_second,
            chosen.percentile_ms(99),
            "o",
            markersize=12,
            fillstyle="none",
            color="black",
            label="chosen",
        )
        if p99_ms is not None:
            axes.axhline(
                p99_ms, color="0.3", linewidth=0.9, linestyle=":", label=f"p99 of {p99_ms:g} ms"
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="images/s", ylabel="p99 latency (ms)")
        axes.set_xlim(left=0)
        axes.legend(title="precision, instances x threads")


def _draw_percentiles(axes: Axes, answered: Sequence[RequestSample]) -> None:
    rarest = max(10, len(answered))
    if answered:
        tail = np.geomspace(1, rarest, PERCENTILE_POINTS)
        axes.plot(tail, np.quantile(latency_ms(answered), 1 - 1 / tail))
    axes.set_xscale("log")
    shown = [percentile for percentile in _PERCENTILES if 1 / (1 - percentile / 100) <= rarest]
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - percentile / 100) for percentile in shown]))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{percentile:g}" for percentile in shown]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="percentile", ylabel="latency (ms)")
    axes.set_ylim(bottom=0)


@contextmanager
def _saved_figure(path: Path, width: float, height: float, title: str) -> Iterator[Figure]:
    """A figure, its size in inches, saved at the end. The user's matplotlibrc is ignored."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(dict(_STYLE))  # type: ignore[arg-type]  # its keys are literals there
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.suptitle(title, fontsize=10)
        yield figure
        figure.savefig(path, dpi=150)
