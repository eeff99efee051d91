"""Claim, method and verdicts of the experiment `degradation`."""

import itertools
from collections.abc import Sequence
from typing import Final

from training.experiments.error_measurements import SeedGroup
from training.experiments.experiment_report import Verdict
from training.statistics import SeedValues, seed_count_text

SOURCES: Final = ("He et al. 2015, sections 1, 4.1 and 4.2, figures 1 and 6",)
CLAIM: Final = (
    "Beyond some depth, adding layers to a plain network raises its training error. Overfitting "
    "cannot explain this. The same layers with shortcuts around them do not have this problem."
)
METHOD: Final = (
    "A plain network and its residual twin are trained by the same recipe with the same seeds. The "
    "plain network is the residual one without shortcuts: it has as many weights and costs as "
    "much. Dashed lines: training error on the augmented images since the previous point. Solid "
    "lines: test error after each epoch. The test error selects nothing: the last epoch counts."
)
SERVING: Final = (
    "You can publish {} to the model store and serve them side by side with the commands below. A "
    "gate that fails is reported and can be waived with a reason."
)


def verdicts(plain: Sequence[SeedGroup], residual: Sequence[SeedGroup]) -> list[Verdict]:
    """Three verdicts for each step in depth. Both sequences go from shallow to deep."""
    results = []
    for (shallow_plain, deep_plain), (shallow_residual, deep_residual) in zip(
        itertools.pairwise(plain), itertools.pairwise(residual), strict=True
    ):
        plain_rise = deep_plain.training_error - shallow_plain.training_error
        residual_rise = deep_residual.training_error - shallow_residual.training_error
        results += [
            _plain_networks_degrade(shallow_plain, deep_plain, plain_rise),
            _residual_networks_do_not(shallow_residual, deep_residual, residual_rise),
            _shortcuts_reduce_the_cost(shallow_plain, deep_plain, plain_rise - residual_rise),
        ]
    return results


def _plain_networks_degrade(shallow: SeedGroup, deep: SeedGroup, rise: SeedValues) -> Verdict:
    test_rise = deep.test_error - shallow.test_error
    text = (
        f"Degradation: {deep.name}'s training error is {rise.absolute_points} "
        f"{_direction(rise)} {shallow.name}'s, over {seed_count_text(len(deep.runs))}. Its test "
        f"error is {test_rise.absolute_points} {_direction(test_rise)}."
    )
    if rise.is_positive():
        text += " Overfitting would lower the training error."
    return Verdict(rise.is_positive(), text)


def _residual_networks_do_not(shallow: SeedGroup, deep: SeedGroup, rise: SeedValues) -> Verdict:
    is_higher = rise.is_positive()
    return Verdict(
        None if is_higher is None else not is_higher,
        f"With shortcuts, depth does not raise the error: {deep.name}'s training error is "
        f"{rise.absolute_points} {_direction(rise)} {shallow.name}'s.",
    )


def _shortcuts_reduce_the_cost(
    shallow: SeedGroup, deep: SeedGroup, difference: SeedValues
) -> Verdict:
    return Verdict(
        difference.is_positive(),
        f"Shortcuts reduce the cost of depth: going from {shallow.depth} to {deep.depth} layers "
        f"costs the plain network {difference.absolute_points} "
        f"{'more' if difference.mean > 0 else 'less'} training error than the residual one.",
    )


def _direction(difference: SeedValues) -> str:
    return "above" if difference.mean > 0 else "below"
