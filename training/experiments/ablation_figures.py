"""The figures and tables of the lesions, with what was done for each."""

from collections.abc import Sequence
from typing import Final

from training.experiments.ablation_measurements import AblationResults, percents
from training.experiments.experiment_report import (
    CellValue,
    ReportColumn,
    ReportFigure,
    ReportSection,
    Table,
    drawn,
)
from training.experiments.path_gradients import share_of_paths
from training.reports.figures import Line, draw_lines
from training.statistics import listed

ALONE: Final = (
    "One block at a time is taken out of the trained network, and the error is measured on {images:,} test images, with nothing "
    "trained again. Of a residual block its shortcut stays. A plain block leaves nothing, or, where it changes the shape "
    "({changing}), what stands there in its residual twin: every second pixel, and zeros for the new channels."
)
MANY: Final = (
    "1, 2, … all of the {movable} blocks that keep the shape are taken out, drawn at random {draws} times for each number and "
    "network: the same draws for both."
)
SWAPS: Final = (
    "Two random blocks of one stage change places, once, twice, four times and so on, {draws} orders for each number. Kendall's "
    "tau compares the order with the trained one: 1 where nothing moved. Blocks that change the shape stay where they are."
)
PATHS: Final = (
    "A path takes the residual branch or the shortcut at each of {blocks} blocks, so lengths are binomial. The gradient of a "
    "length is had as in the paper: forward as always, backward through the residual branches alone of that many random blocks, "
    "and through the shortcuts alone of all others. Unlike there, where the norm is taken at the network's input, of random "
    "batches of training images, 1,000 times a length, it is taken here at the first block's input, of each image by itself, "
    "as the mean over {images} test images (the same for all) and {draws} draws a length. Times the number of such paths it is "
    "what the length contributes: norms add up to more than the gradient's own where paths point in different directions."
)


def parts(
    plain: AblationResults,
    residual: AblationResults,
    chance: float,
    *,
    seeds: Sequence[int],
    images: int,
    draws: int,
    path_images: int,
) -> list[ReportSection]:
    """The argument in four parts, as `verdicts` has them."""
    both = (plain, residual)
    changing = (
        listed((plain.blocks[position] for position in plain.changing), " and ") or "none does"
    )
    numbers = range(1, 1 + len(plain.blocks))
    alone = [
        Line(e.architecture, numbers, e.alone[:, 1:].mean(axis=0).tolist(), s)
        for s, e in enumerate(both)
    ]
    many = [
        Line(
            e.architecture,
            range(len(e.growth)),
            e.growth.tolist(),
            s,
            spread=_band(e.growth_deviations),
        )
        for s, e in enumerate(both)
    ]
    swaps = []
    for series, each in enumerate(both):
        taus, errors, deviations = zip(*each.by_tau(), strict=True)
        swaps.append(Line(each.architecture, taus, errors, series, spread=_band(deviations)))
    lengths, norms = range(1 + len(residual.blocks)), residual.gradients.mean(axis=(0, 2)).tolist()
    shares = [
        Line("paths", lengths, share_of_paths(len(residual.blocks)).tolist(), 0, dashed=True),
        Line("gradient", lengths, residual.shares.mean(axis=0).tolist(), 1),
    ]
    whole = f"the whole networks' errors are {percents(plain.alone[:, 0].mean())} and {percents(residual.alone[:, 0].mean())}"
    band = "; bands: one standard deviation over the draws" + (
        " and seeds" if len(seeds) > 1 else ""
    )
    many_band, swaps_band = (
        band if any(line.spread for line in lines) else "" for lines in (many, swaps)
    )
    return [
        ReportSection(
            "One block deleted",
            [ALONE.format(images=images, changing=changing)],
            [
                _errors(
                    "deleted-alone",
                    f"Test error without each block; {whole}",
                    alone,
                    "block deleted",
                    chance,
                )
            ],
            files=[_alone_table(both, seeds)],
        ),
        ReportSection(
            "Many blocks deleted",
            [MANY.format(movable=len(plain.movable), draws=draws)],
            [
                _errors(
                    "deleted-many",
                    f"Test error by number of blocks deleted{many_band}",
                    many,
                    "blocks deleted",
                    chance,
                )
            ],
            files=[_many_table(both, seeds)],
        ),
        ReportSection(
            "Blocks swapped",
            [SWAPS.format(draws=draws)],
            [
                _errors(
                    "swapped",
                    f"Test error by tau: means of like orders{swaps_band}",
                    swaps,
                    "Kendall's tau",
                    chance,
                )
            ],
            files=[_swap_table(both)],
        ),
        ReportSection(
            "Lengths of paths",
            [PATHS.format(blocks=len(residual.blocks), images=path_images, draws=draws)],
            [
                ReportFigure(
                    "path-gradients",
                    "Norm of the gradient along one path, by its length",
                    drawn(
                        draw_lines(
                            "path gradients",
                            [Line("gradient of a path", lengths, norms, 1)],
                            x="blocks on the path",
                            y="norm",
                            logarithmic=True,
                            legend=False,
                        )
                    ),
                ),
                ReportFigure(
                    "path-shares",
                    "Where the paths are, and where the gradient comes from",
                    drawn(
                        draw_lines(
                            "path shares",
                            shares,
                            x="blocks on the path",
                            y="share",
                            percent=True,
                            limits=(0, None),
                        )
                    ),
                ),
            ],
            files=[_path_table(residual)],
        ),
    ]


def _band(deviations: Sequence[float | None]) -> list[float] | None:
    """Deviations to draw; none where one of them can not be known, since a single draw has none."""
    known = [deviation for deviation in deviations if deviation is not None]
    return known if len(known) == len(deviations) else None


def _errors(name: str, caption: str, lines: Sequence[Line], x: str, chance: float) -> ReportFigure:
    ends = [min(lines[0].x), max(lines[0].x)]
    level = Line("chance", ends, [chance, chance], len(lines), dashed=True)
    return ReportFigure(
        name,
        caption,
        drawn(draw_lines(name, [*lines, level], x=x, y="test error", percent=True, limits=(0, 1))),
    )


def _alone_table(both: Sequence[AblationResults], seeds: Sequence[int]) -> Table:
    columns = (
        ReportColumn("network"),
        ReportColumn("seed", "whole"),
        ReportColumn("without"),
        ReportColumn("test error", "percent"),
    )
    rows: list[Sequence[CellValue]] = [
        (each.architecture, seed, name, error)
        for each in both
        for seed, errors in zip(seeds, each.alone.tolist(), strict=True)
        for name, error in zip(["", *each.blocks], errors, strict=True)
    ]
    return Table("deleted-alone", "each block", columns, rows)


def _many_table(both: Sequence[AblationResults], seeds: Sequence[int]) -> Table:
    columns = (
        *(ReportColumn("network"), ReportColumn("seed", "whole"), ReportColumn("deleted", "whole")),
        ReportColumn("test error", "percent"),
    )
    rows: list[Sequence[CellValue]] = [
        (each.architecture, seed, number, error)
        for each in both
        for seed, counts in zip(seeds, each.many.tolist(), strict=True)
        for number, errors in enumerate(counts, start=1)
        for error in errors
    ]
    return Table("deleted-many", "each draw", columns, rows)


def _swap_table(both: Sequence[AblationResults]) -> Table:
    names = ("seed", "swaps", "tau", "error")
    columns = (ReportColumn("network"), *(ReportColumn(name, "decimals") for name in names))
    return Table(
        "swapped",
        "each order",
        columns,
        [(each.architecture, *(order[n] for n in names)) for each in both for order in each.swaps],
    )


def _path_table(residual: AblationResults) -> Table:
    columns = [
        ReportColumn("length", "whole"),
        ReportColumn("norm", "decimals"),
        *(ReportColumn(f"share of {n}", "percent") for n in ("paths", "gradient")),
    ]
    values = (
        residual.gradients.mean(axis=(0, 2)).tolist(),
        share_of_paths(len(residual.blocks)).tolist(),
        residual.shares.mean(axis=0).tolist(),
    )
    return Table(
        "paths",
        "each length",
        columns,
        [(length, *row) for length, row in enumerate(zip(*values, strict=True))],
    )
