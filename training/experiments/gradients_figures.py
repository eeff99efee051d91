"""Figures and tables of the experiment `gradients`."""

from collections.abc import Mapping, Sequence

import numpy as np

from training.experiments.experiment_report import (
    CellValue,
    ReportColumn,
    ReportFigure,
    ReportTable,
    draw_line_figure,
)
from training.experiments.gradients_measurements import LayerNorms, window_means
from training.experiments.loss_surface import (
    Surface,
    basin_share,
    count_minima,
    grid_coordinates,
)
from training.reports.figures import Line, draw_surfaces


def draw_norms(depth: int, norms: Mapping[str, LayerNorms]) -> ReportFigure:
    """Geometric means over the seeds by layer: the first step dashed, the last steps solid."""
    lines = []
    for series, (name, values) in enumerate(norms.items()):
        windows = window_means(values)
        for window, dashed in (("step 1", True), (list(windows)[-1], False)):
            means = np.exp(np.log(windows[window]).mean(axis=0)).tolist()
            x, label = range(1, len(means) + 1), f"{name}, {window}"
            lines.append(Line(label, x, means, series, dashed=dashed))
    return draw_line_figure(
        f"gradients-{depth}",
        f"Gradient norm by layer, {depth} layers: at the first step (dashed) and later (solid)",
        lines,
        title=f"gradients {depth}",
        x="3x3 convolution, from the input on",
        y="gradient norm",
        logarithmic=True,
    )


def norms_table(norms: Mapping[str, LayerNorms]) -> ReportTable:
    """First and last layer of each network, and the spread over its layers."""
    columns = (
        ReportColumn("network"),
        ReportColumn("window"),
        ReportColumn("first layer", "scientific"),
        ReportColumn("last layer", "scientific"),
        ReportColumn("first / last", "scientific"),
        ReportColumn("largest / smallest", "scientific"),
    )
    rows = []
    for name, values in norms.items():
        for window, by_seed in window_means(values).items():
            means = np.exp(np.log(by_seed).mean(axis=0))
            first, last = float(means[0]), float(means[-1])
            spread = float(means.max() / means.min())
            rows.append((name, window, first, last, first / last, spread))
    caption = "Gradient norms of the first and last 3x3 convolution (geometric means over seeds)"
    return ReportTable("gradients", caption, columns, rows)


def layer_norms_table(norms: Mapping[str, LayerNorms], seeds: Sequence[int]) -> ReportTable:
    """Every mean, for a CSV file."""
    columns = (
        ReportColumn("network"),
        ReportColumn("seed", "whole"),
        ReportColumn("window"),
        ReportColumn("layer", "whole"),
        ReportColumn("norm", "scientific"),
    )
    rows = [
        (name, seed, window, layer, norm)
        for name, values in norms.items()
        for window, by_seed in window_means(values).items()
        for seed, layers in zip(seeds, by_seed.tolist(), strict=True)
        for layer, norm in enumerate(layers, start=1)
    ]
    return ReportTable("gradients-by-layer", "norms by layer", columns, rows)


def draw_surface_contours(surfaces: Mapping[str, Surface], points: int) -> ReportFigure:
    return ReportFigure(
        "surface",
        "Training loss along two random filter-normalised directions, with the same contour levels "
        "for both networks; the cross marks the trained weights",
        draw_surfaces("loss surface", grid_coordinates(points), surfaces),
    )


def surface_table(surfaces: Mapping[str, Surface], classes: int) -> ReportTable:
    columns = (
        ReportColumn("network"),
        ReportColumn("loss at the centre", "decimals"),
        ReportColumn("highest loss", "scientific"),
        ReportColumn("share in the basin", "percent"),
        ReportColumn("local minima on the grid", "whole"),
    )
    rows: list[list[CellValue]] = []
    for name, losses in surfaces.items():
        centre = len(losses) // 2
        row: list[CellValue] = [name, losses[centre][centre], max(map(max, losses))]
        rows.append([*row, basin_share(losses, classes), count_minima(losses)])
    limit = f"{np.log(classes) / 2:.2f}"
    caption = f"Losses around the weights; the basin ends at the centre's loss + {limit}"
    return ReportTable("surface", caption, columns, rows)


def surface_points_table(surfaces: Mapping[str, Surface], points: int) -> ReportTable:
    """Every loss, for a CSV file."""
    columns = (
        ReportColumn("network"),
        ReportColumn("x", "scientific"),
        ReportColumn("y", "scientific"),
        ReportColumn("loss", "decimals"),
    )
    coordinates = grid_coordinates(points)
    rows = [
        (name, x, y, loss)
        for name, losses in surfaces.items()
        for y, row in zip(coordinates, losses, strict=True)
        for x, loss in zip(coordinates, row, strict=True)
    ]
    return ReportTable("surface-points", "losses around the weights", columns, rows)
