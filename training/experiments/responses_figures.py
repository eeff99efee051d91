"""Figures and tables of the experiment `responses`."""

from collections.abc import Sequence

import numpy as np

from training.experiments.experiment_report import (
    ReportColumn,
    ReportFigure,
    ReportTable,
    draw_line_figure,
)
from training.experiments.laboratory import TWIN_FAMILIES
from training.experiments.responses_measurements import LayerResponses
from training.reports.figures import Line


def draw_responses(
    name: str, caption: str, responses: Sequence[LayerResponses], *, by_size: bool = False
) -> ReportFigure:
    """One line per network. Layers are in network order, or sorted from large to small."""
    lines = []
    for position, each in enumerate(responses):
        mean = each.deviations.mean(axis=0)
        heights = (np.sort(mean)[::-1] if by_size else mean).tolist()
        dashed, series = each.architecture.startswith("plain"), position // len(TWIN_FAMILIES)
        x = range(1, len(mean) + 1)
        lines.append(Line(each.architecture, x, heights, series, dashed=dashed))
    return draw_line_figure(
        name,
        caption,
        lines,
        x="layers, largest response first" if by_size else "layer",
        y="standard deviation",
        logarithmic=True,
    )


def summary_table(responses: Sequence[LayerResponses]) -> ReportTable:
    columns = (
        ReportColumn("network"),
        ReportColumn("layers", "whole"),
        ReportColumn("seeds", "whole"),
        ReportColumn("mean", "decimals"),
        ReportColumn("± mean", "decimals"),
        ReportColumn("median", "decimals"),
        ReportColumn("smallest", "decimals"),
        ReportColumn("largest", "decimals"),
    )
    rows = []
    for each in responses:
        seeds, layers = each.deviations.shape
        mean = each.deviations.mean(axis=0)
        overall = (each.layer_mean.mean, each.layer_mean.deviation)
        spread = (float(np.median(mean)), float(mean.min()), float(mean.max()))
        rows.append((each.architecture, layers, seeds, *overall, *spread))
    return ReportTable("responses", "Responses over the layers; ± over the seeds", columns, rows)


def layer_table(responses: Sequence[LayerResponses], seeds: Sequence[int]) -> ReportTable:
    """Every layer of every network and seed, for a CSV file."""
    columns = (
        ReportColumn("network"),
        ReportColumn("seed", "whole"),
        ReportColumn("layer"),
        ReportColumn("standard deviation", "decimals"),
    )
    rows = [
        (each.architecture, seed, layer, value)
        for each in responses
        for seed, values in zip(seeds, each.deviations.tolist(), strict=True)
        for layer, value in zip(each.layers, values, strict=True)
    ]
    return ReportTable("layers", "every layer", columns, rows)
