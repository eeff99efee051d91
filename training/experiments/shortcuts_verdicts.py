"""Claim, method and verdicts of the experiment `shortcuts`."""

from collections.abc import Sequence
from typing import Final

from training.experiments.error_measurements import SeedGroup
from training.experiments.experiment_report import Verdict
from training.statistics import SeedValues, join_values, seed_count_text

SOURCES: Final = ("He et al. 2015, section 4.1 (table 3) and 4.2", "He et al. 2016, tables 1 and 2")
CLAIM: Final = (
    "The identity is what helps. Any shortcut is better than none. Projections where sizes change "
    "(B) or in every block (C) gain little over shortcuts without parameters (A). Nothing should "
    "follow the addition (pre-activation)."
)
METHOD: Final = (
    "Five networks with {} weighted layers. None: the plain network. A: identities; where sizes "
    "change, every second pixel, with zeros for the new channels. B: a 1x1 convolution where sizes "
    "change. C: a 1x1 convolution in every block. Pre-activation: batch norm and ReLU before each "
    "convolution, so that nothing follows the addition, with the shortcuts of A. All are trained "
    "by one recipe with the same seeds. B and C have more weights."
)
SMALL_DIFFERENCE: Final = 0.01
"""Differences up to one point are small. In the paper, A, B and C differ by half a point."""


def verdicts(
    none: SeedGroup, a: SeedGroup, b: SeedGroup, c: SeedGroup, preactivation: SeedGroup
) -> list[Verdict]:
    return [
        _any_shortcut_helps(none, [a, b, c, preactivation]),
        _projections_gain_little(a, [b, c]),
        _preactivation_helps(a, preactivation),
    ]


def _any_shortcut_helps(none: SeedGroup, groups: Sequence[SeedGroup]) -> Verdict:
    gains = [none.test_error - group.test_error for group in groups]
    decisions = {gain.is_positive(SMALL_DIFFERENCE) for gain in gains}
    shown = False if False in decisions else None if None in decisions else True
    listed = (
        f"{gain.signed_points} above {group.name}'s"
        for gain, group in zip(gains, groups, strict=True)
    )
    return Verdict(
        shown,
        f"Any shortcut is better than none: {none.name}'s test error is, in points, "
        f"{join_values(listed)}, {_over_seeds(none)}.",
    )


def _projections_gain_little(a: SeedGroup, projections: Sequence[SeedGroup]) -> Verdict:
    gains = [a.test_error - group.test_error for group in projections]
    return Verdict(
        _all_at_most(gains, SMALL_DIFFERENCE),
        f"Projections gain little: on the test split B is {gains[0].signed_points} points better "
        f"than A, and C {gains[1].signed_points} points (little: up to "
        f"{100 * SMALL_DIFFERENCE:.0f} point), {_over_seeds(a)}.",
    )


def _preactivation_helps(a: SeedGroup, preactivation: SeedGroup) -> Verdict:
    gain = a.test_error - preactivation.test_error
    return Verdict(
        gain.is_positive(SMALL_DIFFERENCE),
        f"Pre-activation helps: on the test split {preactivation.name} is {gain.signed_points} "
        f"points better than {a.name}, {_over_seeds(a)} (smallest difference that counts: "
        f"{100 * SMALL_DIFFERENCE:.0f} point). The paper's gain is for 110 layers and more.",
    )


def _over_seeds(group: SeedGroup) -> str:
    return f"over {seed_count_text(len(group.runs))}"


def _all_at_most(samples: Sequence[SeedValues], bound: float) -> bool | None:
    """Whether all samples are at most `bound`.

    False if a sample exceeds it with every seed. None if a sample does so with some seeds only, or
    if all values are 0, because networks that learn nothing have equal errors.
    """
    if all(sample.all_zero for sample in samples):
        return None
    above = [[value > bound for value in sample.values] for sample in samples]
    if any(all(seeds) for seeds in above):
        return False
    return None if any(any(seeds) for seeds in above) else True
