"""Figures and tables of the experiment `ablation`."""

from collections.abc import Sequence

from training.experiments.ablation_measurements import AblationResults
from training.experiments.ablation_verdicts import (
    MANY_METHOD,
    PATH_METHOD,
    SINGLE_METHOD,
    SWAP_METHOD,
    percent,
)
from training.experiments.experiment_report import (
    CellValue,
    ReportColumn,
    ReportFigure,
    ReportSection,
    ReportTable,
    draw_line_figure,
)
from training.experiments.path_gradients import share_of_paths
from training.reports.figures import Line
from training.statistics import join_values


def report_sections(
    plain: AblationResults,
    residual: AblationResults,
    chance: float,
    *,
    seeds: Sequence[int],
    images: int,
    draws: int,
    path_images: int,
) -> list[ReportSection]:
    networks = (plain, residual)
    changing = join_values((plain.blocks[p] for p in plain.shape_changing), " and ") or "none"
    band = "; bands: one standard deviation over the draws"
    band += " and seeds" if len(seeds) > 1 else ""
    return [
        ReportSection(
            "One block deleted",
            [SINGLE_METHOD.format(images=images, changing=changing)],
            [_draw_single(networks, chance)],
            csv_tables=[_single_table(networks, seeds)],
        ),
        ReportSection(
            "Many blocks deleted",
            [MANY_METHOD.format(blocks=len(plain.shape_keeping), draws=draws)],
            [_draw_many(networks, chance, band)],
            csv_tables=[_many_table(networks, seeds)],
        ),
        ReportSection(
            "Blocks swapped",
            [SWAP_METHOD.format(draws=draws)],
            [_draw_swaps(networks, chance, band)],
            csv_tables=[_swap_table(networks)],
        ),
        ReportSection(
            "Lengths of paths",
            [PATH_METHOD.format(blocks=len(residual.blocks), images=path_images, draws=draws)],
            [_draw_path_norms(residual), _draw_path_shares(residual)],
            csv_tables=[_path_table(residual)],
        ),
    ]


def _draw_single(networks: Sequence[AblationResults], chance: float) -> ReportFigure:
    lines = [
        Line(each.architecture, range(1, 1 + len(each.blocks)), errors.tolist(), series)
        for series, each in enumerate(networks)
        for errors in [each.single[:, 1:].mean(axis=0)]
    ]
    whole = " and ".join(percent(each.single[:, 0].mean()) for each in networks)
    caption = f"Test error without each block; errors of the whole networks: {whole}"
    return _draw_errors("deleted-alone", caption, lines, "deleted block", chance)


def _draw_many(networks: Sequence[AblationResults], chance: float, band: str) -> ReportFigure:
    lines = []
    for series, each in enumerate(networks):
        errors = each.errors_by_deleted.tolist()
        spread = _all_known(each.deviations_by_deleted)
        lines.append(Line(each.architecture, range(len(errors)), errors, series, spread=spread))
    caption = "Test error by number of blocks deleted"
    return _draw_errors("deleted-many", caption, lines, "deleted blocks", chance, band)


def _draw_swaps(networks: Sequence[AblationResults], chance: float, band: str) -> ReportFigure:
    lines = []
    for series, each in enumerate(networks):
        taus, errors, deviations = zip(*each.errors_by_tau(), strict=True)
        lines.append(Line(each.architecture, taus, errors, series, spread=_all_known(deviations)))
    caption = "Test error by Kendall's tau, averaged over similar orders"
    return _draw_errors("swapped", caption, lines, "Kendall's tau", chance, band)


def _draw_errors(
    name: str, caption: str, lines: Sequence[Line], x: str, chance: float, band: str = ""
) -> ReportFigure:
    ends = [min(lines[0].x), max(lines[0].x)]
    level = Line("chance", ends, [chance, chance], len(lines), dashed=True)
    caption += band if any(line.spread for line in lines) else ""
    return draw_line_figure(
        name, caption, [*lines, level], x=x, y="test error", percent=True, limits=(0, 1)
    )


def _draw_path_norms(residual: AblationResults) -> ReportFigure:
    norms = residual.gradients.mean(axis=(0, 2)).tolist()
    return draw_line_figure(
        "path-gradients",
        "Gradient norm along one path, by path length",
        [Line("gradient of a path", range(len(norms)), norms, 1)],
        title="path gradients",
        x="blocks on the path",
        y="norm",
        logarithmic=True,
        legend=False,
    )


def _draw_path_shares(residual: AblationResults) -> ReportFigure:
    paths = share_of_paths(len(residual.blocks)).tolist()
    gradient = residual.gradient_shares.mean(axis=0).tolist()
    return draw_line_figure(
        "path-shares",
        "Share of the paths and of the gradient, by path length",
        [
            Line("paths", range(len(paths)), paths, 0, dashed=True),
            Line("gradient", range(len(paths)), gradient, 1),
        ],
        title="path shares",
        x="blocks on the path",
        y="share",
        percent=True,
        limits=(0, None),
    )


def _all_known(deviations: Sequence[float | None]) -> list[float] | None:
    """The deviations, or None if one is unknown. With a single draw, there is no deviation."""
    known = [deviation for deviation in deviations if deviation is not None]
    return known if len(known) == len(deviations) else None


def _single_table(networks: Sequence[AblationResults], seeds: Sequence[int]) -> ReportTable:
    columns = (
        ReportColumn("network"),
        ReportColumn("seed", "whole"),
        ReportColumn("without"),
        ReportColumn("test error", "percent"),
    )
    rows: list[Sequence[CellValue]] = [
        (each.architecture, seed, name, error)
        for each in networks
        for seed, errors in zip(seeds, each.single.tolist(), strict=True)
        for name, error in zip(["", *each.blocks], errors, strict=True)
    ]
    return ReportTable("deleted-alone", "each block", columns, rows)


def _many_table(networks: Sequence[AblationResults], seeds: Sequence[int]) -> ReportTable:
    columns = (
        ReportColumn("network"),
        ReportColumn("seed", "whole"),
        ReportColumn("deleted", "whole"),
        ReportColumn("test error", "percent"),
    )
    rows: list[Sequence[CellValue]] = [
        (each.architecture, seed, number, error)
        for each in networks
        for seed, by_number in zip(seeds, each.many.tolist(), strict=True)
        for number, errors in enumerate(by_number, start=1)
        for error in errors
    ]
    return ReportTable("deleted-many", "each draw", columns, rows)


def _swap_table(networks: Sequence[AblationResults]) -> ReportTable:
    names = ("seed", "swaps", "tau", "error")
    columns = (ReportColumn("network"), *(ReportColumn(name, "decimals") for name in names))
    rows = [
        (each.architecture, *(order[name] for name in names))
        for each in networks
        for order in each.swaps
    ]
    return ReportTable("swapped", "each order", columns, rows)


def _path_table(residual: AblationResults) -> ReportTable:
    columns = (
        ReportColumn("length", "whole"),
        ReportColumn("norm", "decimals"),
        ReportColumn("share of paths", "percent"),
        ReportColumn("share of gradient", "percent"),
    )
    norms = residual.gradients.mean(axis=(0, 2)).tolist()
    paths = share_of_paths(len(residual.blocks)).tolist()
    gradient = residual.gradient_shares.mean(axis=0).tolist()
    rows = list(zip(range(len(norms)), norms, paths, gradient, strict=True))
    return ReportTable("paths", "each path length", columns, rows)
