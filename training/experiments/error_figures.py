"""Figures and tables of training and test errors, for `degradation` and `shortcuts`."""

from collections.abc import Iterable, Sequence
from typing import Final

from training.experiments.error_measurements import ERROR_KINDS, SeedGroup
from training.experiments.experiment_report import (
    CellValue,
    ReportColumn,
    ReportFigure,
    ReportTable,
    draw_line_figure,
)
from training.reports.figures import Line

PAPER_TEST_ERRORS: Final = {
    "resnet20": 0.0875,
    "resnet32": 0.0751,
    "resnet44": 0.0717,
    "resnet56": 0.0697,
    "resnet110": 0.0643,
}
"""Test error on CIFAR-10 (He et al. 2015, table 6). Not stated for the other networks."""


def draw_error_curves(
    name: str,
    title: str,
    groups: Sequence[SeedGroup],
    top: float,
    kinds: Sequence[str] = ERROR_KINDS,
) -> ReportFigure:
    """Mean errors by iteration up to `top`, with a band of one standard deviation over seeds."""
    lines = []
    for series, group in enumerate(groups):
        for kind in kinds:
            iterations, errors = group.curve(kind)
            spread = errors.std(axis=0, ddof=1).tolist() if len(errors) > 1 else None
            label = f"{group.name}, {kind}" if len(kinds) > 1 else group.name
            mean, dashed = errors.mean(axis=0).tolist(), kind == "training"
            lines.append(Line(label, iterations, mean, series, dashed=dashed, spread=spread))
    described = " and ".join(
        f"{kind} error ({'dashed' if kind == 'training' else 'solid'})" for kind in kinds
    )
    band = "; bands: one standard deviation over the seeds" if len(groups[0].runs) > 1 else ""
    return draw_line_figure(
        f"{name}-curves",
        f"{title}: {described} by iteration{band}",
        lines,
        title=f"{name} curves",
        x="iteration",
        y="error",
        percent=True,
        limits=(0, top),
    )


def highest_error(groups: Iterable[SeedGroup]) -> float:
    """Upper end of an axis that fits the curves of all these networks."""
    return 1.05 * max(float(group.curve(kind)[1].max()) for group in groups for kind in ERROR_KINDS)


def describe_convergence(groups: Iterable[SeedGroup]) -> str:
    """A paragraph that says how much the training errors still decreased at the end."""
    group = max(groups, key=lambda group: group.final_decrease)
    rate = group.runs[0].history[-1]["learning_rate"]
    return (
        f"In the last tenth of the iterations (learning rate {rate:.3g}), the mean training error "
        f"is at most {100 * max(0.0, group.final_decrease):.1f} points lower than in the tenth "
        f"before ({group.name}). Longer schedules were not tried."
    )


def error_table(name: str, groups: Sequence[SeedGroup], *, with_paper: bool) -> ReportTable:
    """Errors after the last epoch. `with_paper` adds the errors of the paper."""
    columns = [
        ReportColumn("network"),
        ReportColumn("weights", "whole"),
        ReportColumn("seeds", "whole"),
        ReportColumn("training error", "percent"),
        ReportColumn("± training", "percent"),
        ReportColumn("test error", "percent"),
        ReportColumn("± test", "percent"),
    ]
    caption = "Errors of the last epoch: mean and standard deviation over the seeds"
    if with_paper:
        columns.append(ReportColumn("He et al. 2015, test error", "percent"))
        caption += "; the paper trains for 64,000 iterations on the original CIFAR-10 arrays"
    rows = []
    for group in groups:
        training, test = group.training_error, group.test_error
        weights = sum(parameter.numel() for parameter in group.runs[0].trained.network.parameters())
        row: list[CellValue] = [group.name, weights, len(group.runs)]
        row += [training.mean, training.deviation, test.mean, test.deviation]
        rows.append([*row, PAPER_TEST_ERRORS.get(group.name)] if with_paper else row)
    return ReportTable(name, caption, columns, rows)


def curve_table(name: str, groups: Sequence[SeedGroup]) -> ReportTable:
    """Every point of the curves, for a CSV file."""
    rows: list[tuple[str, int, str, int, float]] = []
    for group in groups:
        for kind in ERROR_KINDS:
            iterations, errors = group.curve(kind)
            for run, curve in zip(group.runs, errors.round(6).tolist(), strict=True):
                points = zip(iterations, curve, strict=True)
                rows += [(group.name, run.seed, kind, *point) for point in points]
    columns = (
        ReportColumn("network"),
        ReportColumn("seed", "whole"),
        ReportColumn("error of"),
        ReportColumn("iteration", "whole"),
        ReportColumn("error", "percent"),
    )
    return ReportTable(name, "points of the curves", columns, rows)
