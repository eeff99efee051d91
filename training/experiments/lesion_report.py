"""What lesions say: figures, tables, and sentences computed from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from training.experiments.paths import CARRIED, SHARE, share_of_gradient, share_of_paths, shortest_interval, usual_lengths
from training.experiments.report import Cell, Column, Figure, Part, Table, Verdict, drawn
from training.experiments.statistics import Sample, listed
from training.reports.figures import Line, draw_lines

SMOOTH: Final = 1 / 3
"""Error grows smoothly where no single further block brings more than this share of the whole rise."""
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
    "length is measured as in the paper: forward as always, backward through the residual branches of that many random blocks alone and "
    "through the shortcuts alone of all others; its norm at the first block's input, mean over {images} test images and {draws} "
    "draws. Times the number of such paths it is what the length contributes: norms add up to more than the gradient's own norm "
    "where paths point in different directions."
)


@dataclass(frozen=True)
class Lesions:
    """What was measured of one network, over its seeds. `gradients` are norms `[seed, length, draw]`, empty of plain networks."""

    architecture: str
    blocks: Sequence[str]
    movable: Sequence[int]
    alone: NDArray[np.float64]
    """Errors `[seed, 1 + blocks]`: of the whole network, and without each block."""
    many: NDArray[np.float64]
    """Errors `[seed, number deleted - 1, draw]`."""
    swaps: Sequence[dict[str, Any]]
    """`seed`, `swaps`, `tau` and `error` of each order."""
    gradients: NDArray[np.float64]

    @property
    def rises(self) -> NDArray[np.float64]:
        """Errors without each block above the whole network's, `[seed, block]`."""
        return self.alone[:, 1:] - self.alone[:, :1]

    @property
    def changing(self) -> list[int]:
        """Positions of the blocks that change the shape."""
        return [position for position in range(len(self.blocks)) if position not in self.movable]

    @property
    def growth(self) -> NDArray[np.float64]:
        """Mean error by number of blocks deleted, from none."""
        return np.array([self.alone[:, 0].mean(), *self.many.mean(axis=(0, 2))])

    def by_swaps(self) -> list[tuple[float, float, float]]:
        """Mean tau, mean error and its deviation for each number of swaps, in the order of tau; the trained order is one."""
        points = [(1.0, float(self.alone[:, 0].mean()), 0.0)]
        for number in sorted({order["swaps"] for order in self.swaps}):
            errors = [order["error"] for order in self.swaps if order["swaps"] == number]
            taus = [order["tau"] for order in self.swaps if order["swaps"] == number]
            points.append((float(np.mean(taus)), float(np.mean(errors)), float(np.std(errors))))
        return sorted(points)


def verdicts(plain: Lesions, residual: Lesions, chance: float) -> list[Verdict]:
    """What the errors and the gradients say."""
    return [*_alone(plain, residual, chance), _many(plain, residual), *_swaps(plain, residual), _paths(residual)]


def _alone(plain: Lesions, residual: Lesions, chance: float) -> list[Verdict]:
    ours, theirs = (each.rises[:, each.movable] for each in (residual, plain))
    worst = int(ours.mean(axis=0).argmax())
    said = [
        Verdict(
            Sample((np.median(theirs, axis=1) - np.median(ours, axis=1)).tolist()).agree(),
            f"Deleting any one block that keeps the shape raises {residual.architecture}'s test error by "
            f"{_points(np.median(ours))} points in the median and at most by {_points(ours.mean(axis=0).max())} "
            f"({residual.blocks[residual.movable[worst]]}); {plain.architecture}'s by {_points(np.median(theirs))} in the median, to "
            f"{_percent(np.median(theirs + plain.alone[:, :1]))} (chance is {_percent(chance)}), and at least by "
            f"{_points(theirs.mean(axis=0).min())}.",
        )
    ]
    if residual.changing:
        changing = residual.rises[:, residual.changing]
        names = listed((residual.blocks[position] for position in residual.changing), " and ")
        said.append(
            Verdict(
                Sample((changing.mean(axis=1) - ours.mean(axis=1)).tolist()).agree(),
                f"Blocks that change the shape matter more: without {names} {residual.architecture}'s error rises by "
                f"{listed((_points(value) for value in changing.mean(axis=0)), ' and ')} points, without another by "
                f"{_points(ours.mean())} in the mean.",
            )
        )
    return said


def _many(plain: Lesions, residual: Lesions) -> Verdict:
    growth = residual.growth
    steps, rise = np.diff(growth), growth[-1] - growth[0]
    largest = steps.max() / rise if rise > 0 else np.inf
    return Verdict(
        bool(largest <= SMOOTH),
        f"Smoothly with the number of deleted blocks: {residual.architecture}'s error goes from {_percent(growth[0])} to "
        f"{_percent(growth[-1])} with all {len(steps)} gone, in {int((steps > 0).sum())} of {len(steps)} steps upwards, the largest "
        f"of them {_points(steps.max())} points (smooth: at most a third of the whole rise). {plain.architecture} goes from "
        f"{_percent(plain.growth[0])} to {_percent(plain.growth[1])} with the first.",
    )


def _swaps(plain: Lesions, residual: Lesions) -> list[Verdict]:
    moved = [order for order in residual.swaps if order["tau"] < 1]
    if len(moved) < 2:  # two blocks of a stage are needed
        return []
    correlation = float(spearmanr([o["tau"] for o in residual.swaps], [o["error"] for o in residual.swaps]).statistic)
    far = residual.by_swaps()[0]
    near, near_plain = (next(o for o in reversed(each.by_swaps()) if o[0] < 1) for each in (residual, plain))
    return [
        Verdict(
            None if np.isnan(correlation) else correlation < 0,
            f"The order of the blocks: Spearman's correlation of {residual.architecture}'s error with Kendall's tau is {correlation:.2f} over {len(residual.swaps)} orders. At tau {near[0]:.2f} the error is "
            f"{_percent(near[1])}, at {far[0]:.2f} {_percent(far[1])}; {plain.architecture}'s is {_percent(near_plain[1])} at "
            f"{near_plain[0]:.2f} already.",
        )
    ]


def _paths(residual: Lesions) -> Verdict:
    blocks, shares = len(residual.blocks), _shares(residual)
    low, high = usual_lengths(blocks)
    first, last = shortest_interval(shares.mean(axis=0), CARRIED)
    lengths = shares @ np.arange(blocks + 1)
    few = share_of_paths(blocks)[first : last + 1].sum()
    return Verdict(
        Sample((blocks / 2 - lengths).tolist()).agree(),
        f"Short paths carry the gradient: at least {100 * SHARE:.0f} % of {residual.architecture}'s paths pass through {low} to "
        f"{high} of {blocks} blocks, but {100 * CARRIED:.0f} % of the gradient comes from those through {first} to {last}, which are "
        f"{100 * few:.3g} % of the paths. In the mean a path is {blocks / 2:.1f} blocks long, and what carries the gradient "
        f"{lengths.mean():.1f}.",
    )


def parts(
    plain: Lesions, residual: Lesions, chance: float, *, seeds: Sequence[int], images: int, draws: int, path_images: int
) -> list[Part]:
    """The argument in four parts, as `verdicts` has them."""
    both = (plain, residual)
    changing = listed((plain.blocks[position] for position in plain.changing), " and ") or "none does"
    numbers = range(1, 1 + len(plain.blocks))
    alone = [Line(e.architecture, numbers, e.alone[:, 1:].mean(axis=0).tolist(), s) for s, e in enumerate(both)]
    many = [
        Line(e.architecture, range(len(e.growth)), e.growth.tolist(), s, spread=[0.0, *e.many.std(axis=(0, 2)).tolist()])
        for s, e in enumerate(both)
    ]
    swaps = []
    for series, each in enumerate(both):
        taus, errors, spread = (list(values) for values in zip(*each.by_swaps(), strict=True))
        swaps.append(Line(each.architecture, taus, errors, series, spread=spread))
    lengths, norms = range(1 + len(residual.blocks)), residual.gradients.mean(axis=(0, 2)).tolist()
    shares = [
        Line("paths", lengths, share_of_paths(len(residual.blocks)).tolist(), 0, dashed=True),
        Line("gradient", lengths, _shares(residual).mean(axis=0).tolist(), 1),
    ]
    whole = f"the whole networks' errors are {_percent(plain.alone[:, 0].mean())} and {_percent(residual.alone[:, 0].mean())}"
    band = "bands: one standard deviation over the draws" + (" and seeds" if len(seeds) > 1 else "")
    return [
        Part(
            "One block deleted",
            [ALONE.format(images=images, changing=changing)],
            [_errors("deleted-alone", f"Test error without each block; {whole}", alone, "block deleted", chance)],
            files=[_alone_table(both, seeds)],
        ),
        Part(
            "Many blocks deleted",
            [MANY.format(movable=len(plain.movable), draws=draws)],
            [_errors("deleted-many", f"Test error by number of blocks deleted; {band}", many, "blocks deleted", chance)],
            files=[_many_table(both, seeds)],
        ),
        Part(
            "Blocks swapped",
            [SWAPS.format(draws=draws)],
            [_errors("swapped", f"Mean test error and mean tau for each number of swaps; {band}", swaps, "Kendall's tau", chance)],
            files=[_swap_table(both)],
        ),
        Part(
            "Lengths of paths",
            [PATHS.format(blocks=len(residual.blocks), images=min(path_images, images), draws=draws)],
            [
                Figure(
                    "path-gradients", "Norm of the gradient along one path, by its length",
                    drawn(draw_lines("path gradients", [Line("gradient of a path", lengths, norms, 1)], x="blocks on the path",
                                     y="norm", logarithmic=True, legend=False)),
                ),
                Figure(
                    "path-shares", "Where the paths are, and where the gradient comes from",
                    drawn(draw_lines("path shares", shares, x="blocks on the path", y="share", percent=True, limits=(0, None))),
                ),
            ],
            files=[_path_table(residual)],
        ),
    ]  # fmt: skip


def _errors(name: str, caption: str, lines: Sequence[Line], x: str, chance: float) -> Figure:
    ends = [min(lines[0].x), max(lines[0].x)]
    level = Line("chance", ends, [chance, chance], len(lines), dashed=True)
    return Figure(name, caption, drawn(draw_lines(name, [*lines, level], x=x, y="test error", percent=True, limits=(0, 1))))


def _alone_table(both: Sequence[Lesions], seeds: Sequence[int]) -> Table:
    columns = (Column("network"), Column("seed", "whole"), Column("without"), Column("test error", "percent"))
    rows: list[Sequence[Cell]] = [
        (each.architecture, seed, name, error)
        for each in both
        for seed, errors in zip(seeds, each.alone.tolist(), strict=True)
        for name, error in zip(["", *each.blocks], errors, strict=True)
    ]
    return Table("deleted-alone", "each block", columns, rows)


def _many_table(both: Sequence[Lesions], seeds: Sequence[int]) -> Table:
    columns = (*(Column("network"), Column("seed", "whole"), Column("deleted", "whole")), Column("test error", "percent"))
    rows: list[Sequence[Cell]] = [
        (each.architecture, seed, number, error)
        for each in both
        for seed, counts in zip(seeds, each.many.tolist(), strict=True)
        for number, errors in enumerate(counts, start=1)
        for error in errors
    ]
    return Table("deleted-many", "each draw", columns, rows)


def _swap_table(both: Sequence[Lesions]) -> Table:
    names = ("seed", "swaps", "tau", "error")
    columns = (Column("network"), *(Column(name, "decimals") for name in names))
    return Table(
        "swapped", "each order", columns, [(each.architecture, *(order[n] for n in names)) for each in both for order in each.swaps]
    )


def _path_table(residual: Lesions) -> Table:
    columns = [
        Column("length", "whole"),
        Column("norm", "decimals"),
        *(Column(f"share of {n}", "percent") for n in ("paths", "gradient")),
    ]
    values = (
        residual.gradients.mean(axis=(0, 2)).tolist(),
        share_of_paths(len(residual.blocks)).tolist(),
        _shares(residual).mean(axis=0).tolist(),
    )
    return Table("paths", "each length", columns, [(length, *row) for length, row in enumerate(zip(*values, strict=True))])


def _shares(residual: Lesions) -> NDArray[np.float64]:
    return np.array([share_of_gradient(norms) for norms in residual.gradients.tolist()])


def _percent(value: Any) -> str:
    return f"{100 * float(value):.1f} %"


def _points(value: Any) -> str:
    return f"{100 * float(value):.1f}"
