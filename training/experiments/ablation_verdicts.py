"""The sentences that the lesions' figures make."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from scipy.stats import spearmanr

from training.experiments.ablation_measurements import AblationResults, percents
from training.experiments.experiment_report import Verdict
from training.experiments.path_gradients import (
    CARRIED,
    SHARE,
    share_of_paths,
    shortest_interval,
    usual_lengths,
)
from training.statistics import SeedValues, listed, seeds_of

MARGIN: Final = 0.02
"""Errors of some thousand images that differ by less can not be told apart."""
NEAR_CHANCE: Final = 0.1
"""A network whose own error is nearer to chance has no room to get worse, so that lesions of it tell nothing."""
SMOOTH: Final = 1 / 3
"""Error grows smoothly where no single further block brings more than this share of the whole rise."""
SHORTER: Final = 0.1
"""What carries the gradient counts as shorter than a path in the mean where it is so by more than this part of it."""


def verdicts(plain: AblationResults, residual: AblationResults, chance: float) -> list[Verdict]:
    """What the errors and the gradients say: each True or False where all seeds lie beyond a margin on one side, else None."""
    return [
        *_alone(plain, residual, chance),
        _many(plain, residual, chance),
        *_swaps(plain, residual),
        _paths(residual),
    ]


def _alone(plain: AblationResults, residual: AblationResults, chance: float) -> list[Verdict]:
    ours, theirs = (each.rises[:, each.movable] for each in (residual, plain))
    worst = int(ours.mean(axis=0).argmax())
    gap = SeedValues((np.median(theirs, axis=1) - np.median(ours, axis=1)).tolist())
    said = [
        Verdict(
            None if _cramped(plain, chance) or _cramped(residual, chance) else gap.agree(MARGIN),
            f"Deleting any one block that keeps the shape raises {residual.architecture}'s test error by "
            f"{_points(np.median(ours))} points in the median and at most by {_points(ours.mean(axis=0).max())} "
            f"({residual.blocks[residual.movable[worst]]}); {plain.architecture}'s by {_points(np.median(theirs))} in the median, "
            f"to {percents(np.median(theirs + plain.alone[:, :1]))} (chance is {percents(chance)}), and at least by "
            f"{_points(theirs.mean(axis=0).min())} ({seeds_of(len(ours))}; told apart: more than {_points(MARGIN)} points)."
            f"{_cramped(plain, chance)}{_cramped(residual, chance)}",
        )
    ]
    if residual.changing:
        changing = residual.rises[:, residual.changing]
        names = listed((residual.blocks[position] for position in residual.changing), " and ")
        said.append(
            Verdict(
                None
                if _cramped(residual, chance)
                else SeedValues((changing.mean(axis=1) - ours.mean(axis=1)).tolist()).agree(MARGIN),
                f"Blocks that change the shape matter more: without {names} {residual.architecture}'s error rises by "
                f"{listed((_points(value) for value in changing.mean(axis=0)), ' and ')} points, without another by "
                f"{_points(ours.mean())} in the mean ({seeds_of(len(ours))}).{_cramped(residual, chance)}",
            )
        )
    return said


def _many(plain: AblationResults, residual: AblationResults, chance: float) -> Verdict:
    growth = residual.growth
    steps, rise = np.diff(growth), growth[-1] - growth[0]
    untold = bool(_cramped(residual, chance)) or rise <= MARGIN
    return Verdict(
        None if untold else bool(steps.max() <= SMOOTH * rise),
        f"Smoothly with the number of deleted blocks: {residual.architecture}'s error goes from {percents(growth[0])} to "
        f"{percents(growth[-1])} with all {len(steps)} gone, upwards in {int((steps > 0).sum())} of "
        f"{len(steps)} steps, the largest of them {_points(steps.max())} points (smooth: at most a third of the whole rise; "
        f"{seeds_of(len(residual.alone))}). {plain.architecture} goes from {percents(plain.growth[0])} to "
        f"{percents(plain.growth[1])} with the first.{_cramped(residual, chance)}",
    )


def _swaps(plain: AblationResults, residual: AblationResults) -> list[Verdict]:
    *moved, _trained = residual.by_tau()
    if not moved:  # no stage has two blocks that could be swapped
        return []
    far, near, near_plain = moved[0], moved[-1], plain.by_tau()[-2]
    seeds = sorted({order["seed"] for order in residual.swaps})
    falls = SeedValues(
        [
            -_correlation([order for order in residual.swaps if order["seed"] == seed])
            for seed in seeds
        ]
    )
    orders = len(residual.swaps) // len(seeds)
    margin = 2 / np.sqrt(
        max(orders - 1, 1)
    )  # of ranks that are unrelated: twice their correlation's standard deviation
    return [
        Verdict(
            falls.agree(float(margin)),
            f"The order of the blocks: Spearman's correlation of {residual.architecture}'s error with Kendall's tau is "
            f"{listed(f'{-fall:.2f}' for fall in falls.values)} over {orders} orders ({seeds_of(len(seeds))}; related: beyond "
            f"{margin:.2f}, two standard deviations of unrelated ranks). At tau {near[0]:.2f} the error is {percents(near[1])}, at "
            f"{far[0]:.2f} {percents(far[1])}; {plain.architecture}'s is {percents(near_plain[1])} at {near_plain[0]:.2f} already.",
        )
    ]


def _correlation(orders: Sequence[dict[str, Any]]) -> float:
    """Spearman's of tau and error; not a number where one of them is always the same."""
    taus, errors = ([order[name] for order in orders] for name in ("tau", "error"))
    return (
        float(spearmanr(taus, errors).statistic)
        if len(set(taus)) > 1 and len(set(errors)) > 1
        else float("nan")
    )


def _paths(residual: AblationResults) -> Verdict:
    blocks, shares = len(residual.blocks), residual.shares
    low, high = usual_lengths(blocks)
    first, last = shortest_interval(shares.mean(axis=0), CARRIED)
    lengths = shares @ np.arange(blocks + 1)
    few = share_of_paths(blocks)[first : last + 1].sum()
    return Verdict(
        SeedValues((blocks / 2 - lengths).tolist()).agree(SHORTER * blocks / 2),
        f"Short paths carry the gradient: at least {100 * SHARE:.0f} % of {residual.architecture}'s paths pass through {low} to "
        f"{high} of {blocks} blocks, but {100 * CARRIED:.0f} % of the gradient comes from those through {first} to {last}, which "
        f"are {100 * few:.3g} % of the paths. In the mean a path is {blocks / 2:.1f} blocks long, and what carries the gradient "
        f"{lengths.mean():.1f} ({seeds_of(len(lengths))}, {residual.gradients.shape[2]} draws a length; short: by more than "
        f"{100 * SHORTER:.0f} %).",
    )


def _cramped(network: AblationResults, chance: float) -> str:
    """A sentence where the whole network is near chance already, for any seed; else nothing."""
    if network.alone[:, 0].max() <= chance - NEAR_CHANCE:
        return ""
    return f" {network.architecture} is within {_points(NEAR_CHANCE)} points of chance as it is: it has no room to get worse."


def _points(value: Any) -> str:
    return f"{100 * float(value):.1f}"
