"""Claim, method and verdicts of the experiment `ablation`."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from scipy.stats import spearmanr

from training.experiments.ablation_measurements import AblationResults
from training.experiments.experiment_report import Verdict
from training.experiments.path_gradients import (
    USUAL_PATH_SHARE,
    share_of_paths,
    shortest_interval,
    usual_lengths,
)
from training.statistics import SeedValues, join_values, seed_count_text

SOURCES: Final = ("Veit et al. 2016, sections 4.1 to 4.3, figures 3, 5 and 6",)
CLAIM: Final = (
    "A residual network behaves like many shorter networks at once. Every block is a fork, so n "
    "blocks make 2^n paths. Deleting or swapping blocks changes some of these paths and leaves the "
    "others intact. A plain network has a single path, so it breaks. And the short paths carry "
    "most of the gradient."
)
SINGLE_METHOD: Final = (
    "One block at a time is deleted from the trained network. The error is measured on {images:,} "
    "test images, without further training. A deleted residual block leaves its shortcut. A "
    "deleted plain block leaves nothing. A plain block that changes the shape ({changing}) leaves "
    "the shortcut of its residual twin: every second pixel, with zeros for the new channels."
)
MANY_METHOD: Final = (
    "1, 2, … and finally all {blocks} blocks that keep the shape are deleted. They are drawn at "
    "random, {draws} times for each number and network, with the same draws for both networks."
)
SWAP_METHOD: Final = (
    "Two random blocks of one stage are swapped once, twice, four times and so on, with {draws} "
    "random orders for each number of swaps. Kendall's tau compares an order with the trained one; "
    "it is 1 if nothing moved. Blocks that change the shape are not moved."
)
PATH_METHOD: Final = (
    "A path takes the residual branch or the shortcut at each of {blocks} blocks, so path lengths "
    "follow a binomial distribution. As in the paper, the gradient of a path length is measured "
    "with a normal forward pass, and a backward pass through the residual branches of that many "
    "random blocks and the shortcuts of all others. The paper takes the norm at the network's "
    "input for random training batches, 1,000 times for each length. Here, the norm is taken at "
    "the first block's input for each image separately, and averaged over {images} test images and "
    "{draws} draws for each length. The contribution of a length is this mean times the number of "
    "paths of that length. Contributions can add up to more than the norm of the whole gradient, "
    "because paths point in different directions."
)
CARRIED_GRADIENT_SHARE: Final = 0.90
"""The effective paths together have this share of the gradient."""
MARGIN: Final = 0.02
"""Smallest difference of two errors that counts. Each comes from about a thousand images."""
CHANCE_MARGIN: Final = 0.1
"""If the error of the network is closer to chance than this, ablations decide no claim."""
LARGEST_STEP_SHARE: Final = 1 / 3
"""The error grows smoothly if no single block adds more than this share of the whole rise."""
SHORTER_BY: Final = 0.1
"""Gradient paths are short if their mean length is at least this share below that of all paths."""


def verdicts(plain: AblationResults, residual: AblationResults, chance: float) -> list[Verdict]:
    results = [_single_block_matters_less(plain, residual, chance)]
    if residual.shape_changing:
        results.append(_shape_changing_blocks_matter_more(residual, chance))
    results.append(_error_grows_smoothly(plain, residual, chance))
    if any(order["tau"] < 1 for order in residual.swaps):
        results.append(_error_follows_order(plain, residual))
    results.append(_short_paths_carry_the_gradient(residual))
    return results


def _single_block_matters_less(
    plain: AblationResults, residual: AblationResults, chance: float
) -> Verdict:
    residual_rises, plain_rises = (
        network.error_rises[:, network.shape_keeping] for network in (residual, plain)
    )
    worst = int(residual_rises.mean(axis=0).argmax())
    difference = SeedValues(
        (np.median(plain_rises, axis=1) - np.median(residual_rises, axis=1)).tolist()
    )
    limits = _near_chance_sentence(plain, chance) + _near_chance_sentence(residual, chance)
    plain_error = np.median(plain_rises + plain.single[:, :1])
    return Verdict(
        None if limits else difference.is_positive(MARGIN),
        "Deleting one block that keeps the shape hurts a residual network less: "
        f"{residual.architecture}'s test error rises by {points(np.median(residual_rises))} points "
        f"in the median and by at most {points(residual_rises.mean(axis=0).max())} "
        f"({residual.blocks[residual.shape_keeping[worst]]}). {plain.architecture}'s rises by "
        f"{points(np.median(plain_rises))} in the median, to {percent(plain_error)} (chance: "
        f"{percent(chance)}), and by at least {points(plain_rises.mean(axis=0).min())} "
        f"({seed_count_text(len(residual_rises))}; smallest difference that counts: "
        f"{points(MARGIN)} points).{limits}",
    )


def _shape_changing_blocks_matter_more(residual: AblationResults, chance: float) -> Verdict:
    changing = residual.error_rises[:, residual.shape_changing]
    keeping = residual.error_rises[:, residual.shape_keeping]
    difference = SeedValues((changing.mean(axis=1) - keeping.mean(axis=1)).tolist())
    limits = _near_chance_sentence(residual, chance)
    names = join_values((residual.blocks[p] for p in residual.shape_changing), " and ")
    rises = join_values((points(value) for value in changing.mean(axis=0)), " and ")
    return Verdict(
        None if limits else difference.is_positive(MARGIN),
        f"Blocks that change the shape matter more: without {names}, {residual.architecture}'s "
        f"error rises by {rises} points; without another block, by {points(keeping.mean())} points "
        f"on average ({seed_count_text(len(keeping))}).{limits}",
    )


def _error_grows_smoothly(
    plain: AblationResults, residual: AblationResults, chance: float
) -> Verdict:
    errors = residual.errors_by_deleted
    steps, rise = np.diff(errors), errors[-1] - errors[0]
    limits = _near_chance_sentence(residual, chance)
    undecided = bool(limits) or rise <= MARGIN
    return Verdict(
        None if undecided else bool(steps.max() <= LARGEST_STEP_SHARE * rise),
        f"The error grows smoothly with the number of deleted blocks: {residual.architecture}'s "
        f"goes from {percent(errors[0])} to {percent(errors[-1])} with all {len(steps)} deleted. "
        f"It rises in {int((steps > 0).sum())} of {len(steps)} steps, by at most "
        f"{points(steps.max())} points (smooth: at most a third of the whole rise; "
        f"{seed_count_text(len(residual.single))}). {plain.architecture}'s goes from "
        f"{percent(plain.errors_by_deleted[0])} to {percent(plain.errors_by_deleted[1])} with the "
        f"first block.{limits}",
    )


def _error_follows_order(plain: AblationResults, residual: AblationResults) -> Verdict:
    farthest, nearest = residual.errors_by_tau()[0], residual.errors_by_tau()[-2]
    nearest_plain = plain.errors_by_tau()[-2]
    seeds = sorted({order["seed"] for order in residual.swaps})
    correlations = [
        _spearman([order for order in residual.swaps if order["seed"] == seed]) for seed in seeds
    ]
    orders = len(residual.swaps) // len(seeds)
    # Two standard deviations of the correlation of unrelated ranks.
    margin = float(2 / np.sqrt(max(orders - 1, 1)))
    return Verdict(
        SeedValues([-correlation for correlation in correlations]).is_positive(margin),
        "The error grows as the order of the blocks departs from the trained one: Spearman's "
        f"correlation of {residual.architecture}'s error with Kendall's tau is "
        f"{join_values(map(_correlation_text, correlations))} over {orders} orders "
        f"({seed_count_text(len(seeds))}; related: beyond {margin:.2f}, two standard deviations of "
        f"unrelated ranks). At tau {nearest[0]:.2f} the error is {percent(nearest[1])}, at tau "
        f"{farthest[0]:.2f} it is {percent(farthest[1])}. {plain.architecture}'s is "
        f"{percent(nearest_plain[1])} at tau {nearest_plain[0]:.2f}.",
    )


def _spearman(orders: Sequence[dict[str, Any]]) -> float:
    """Spearman's correlation of tau and error; NaN if one of them is constant."""
    taus, errors = ([order[name] for order in orders] for name in ("tau", "error"))
    if len(set(taus)) == 1 or len(set(errors)) == 1:
        return float("nan")
    return float(spearmanr(taus, errors).statistic)


def _correlation_text(correlation: float) -> str:
    return "undefined (equal errors)" if np.isnan(correlation) else f"{correlation:.2f}"


def _short_paths_carry_the_gradient(residual: AblationResults) -> Verdict:
    blocks, shares = len(residual.blocks), residual.gradient_shares
    low, high = usual_lengths(blocks)
    first, last = shortest_interval(shares.mean(axis=0), CARRIED_GRADIENT_SHARE)
    mean_lengths = shares @ np.arange(blocks + 1)
    path_share = share_of_paths(blocks)[first : last + 1].sum()
    return Verdict(
        SeedValues((blocks / 2 - mean_lengths).tolist()).is_positive(SHORTER_BY * blocks / 2),
        f"Short paths carry the gradient: at least {100 * USUAL_PATH_SHARE:.0f} % of "
        f"{residual.architecture}'s paths pass through {low} to {high} of {blocks} blocks, but "
        f"{100 * CARRIED_GRADIENT_SHARE:.0f} % of the gradient comes from paths through {first} to "
        f"{last} blocks, which are {100 * path_share:.3g} % of all paths. The mean length is "
        f"{blocks / 2:.1f} blocks over all paths and {mean_lengths.mean():.1f} weighted by "
        f"gradient ({seed_count_text(len(mean_lengths))}, {residual.gradients.shape[2]} draws for "
        f"each length; short: at least {100 * SHORTER_BY:.0f} % shorter).",
    )


def _near_chance_sentence(network: AblationResults, chance: float) -> str:
    """A sentence if the error of the whole network is near chance for any seed; otherwise empty."""
    if network.single[:, 0].max() <= chance - CHANCE_MARGIN:
        return ""
    return (
        f" The whole {network.architecture} is already within {points(CHANCE_MARGIN)} points of "
        "chance, so it can hardly get worse."
    )


def percent(share: Any) -> str:
    return f"{100 * float(share):.1f} %"


def points(share: Any) -> str:
    return f"{100 * float(share):.1f}"
