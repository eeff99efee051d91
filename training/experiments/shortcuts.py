"""Shortcuts: none, option A, B and C, and pre-activation, side by side (He et al. 2015, section 4.1; He et al. 2016)."""

from collections.abc import Sequence
from typing import Final

from training.experiments.error_measurements import (
    KINDS,
    SeedGroup,
    at_rest,
    draw_group_curves,
    error_table,
    highest,
    points_table,
    train_groups,
)
from training.experiments.experiment_report import Report, ReportSection, Verdict
from training.experiments.laboratory import Laboratory
from training.experiments.run_description import command, describe, is_cifar10
from training.statistics import SeedValues, listed, seeds_of

NETWORKS: Final = ("plain{}", "resnet{}", "resnet{}-b", "resnet{}-c", "preresnet{}")
SOURCES: Final = ("He et al. 2015, section 4.1 (table 3) and 4.2", "He et al. 2016, tables 1 and 2")
CLAIM: Final = (
    "It is the identity that helps: any shortcut is better than none, projections where sizes change (B) or everywhere (C) gain "
    "little over parameter-free ones (A), and nothing should stand in the identity's way (pre-activation)."
)
METHOD: Final = (
    "Five networks of {} layers with weights. None: the plain network. A: identities, and where sizes change every second pixel "
    "with zeros for the new channels. B: a 1x1 convolution where sizes change. C: a 1x1 convolution in every block. "
    "Pre-activation: norm and ReLU before each convolution, so that nothing follows the addition, with A's shortcuts. One recipe, "
    "the same seeds; B and C have more weights."
)
CLOSE: Final = 0.01
"""Differences up to a point count as little: the paper's own between A, B and C are half a point of ImageNet's top-1."""


def perform(laboratory: Laboratory, depth: int, seeds: Sequence[int]) -> Report:
    """Train the five (what is trained already is read), and say what came out. Raises TrainingError."""
    groups = list(
        train_groups(laboratory, [kind.format(depth) for kind in NETWORKS], seeds).values()
    )
    return Report(
        name="shortcuts",
        title="Shortcuts: none, A, B, C, and pre-activation",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(*groups),
        parts=[
            ReportSection(
                "Five networks, one recipe",
                [METHOD.format(depth), at_rest(groups)],
                [
                    draw_group_curves(
                        kind, f"Networks of {depth} layers", groups, [kind], highest(groups)
                    )
                    for kind in KINDS
                ],
                [error_table("errors", groups, beside_paper=is_cifar10(laboratory))],
                [points_table("curves", groups)],
            )
        ],
        setting=describe(laboratory, [run for group in groups for run in group.runs]),
        commands=[command(laboratory, "shortcuts", "--depth", str(depth), seeds=seeds)],
    )


def verdicts(
    none: SeedGroup, a: SeedGroup, b: SeedGroup, c: SeedGroup, preactivated: SeedGroup
) -> list[Verdict]:
    """What the errors say of each part of the claim."""
    gained = [
        none.error("test_top1") - group.error("test_top1") for group in (a, b, c, preactivated)
    ]
    against_none = {gain.agree(CLOSE) for gain in gained}
    any_better = False if False in against_none else None if None in against_none else True
    projected = [a.error("test_top1") - group.error("test_top1") for group in (b, c)]
    over = f"over {seeds_of(len(a.runs))}"
    before = a.error("test_top1") - preactivated.error("test_top1")
    return [
        Verdict(
            any_better,
            f"Any is better than none: {none.name}'s test error is {listed(gain.signed for gain in gained[:-1])} and "
            f"{gained[-1].signed} points above those of {listed(group.name for group in (a, b, c))} and {preactivated.name}, "
            f"{over}.",
        ),
        Verdict(
            _at_most(projected, CLOSE),
            f"Projections gain little: B is {projected[0].signed} and C {projected[1].signed} points better on test than A "
            f"(little: up to {100 * CLOSE:.0f}), {over}.",
        ),
        Verdict(
            before.agree(CLOSE),
            f"Pre-activation: {preactivated.name} is {before.signed} points better on test than {a.name}, {over} (told apart: "
            f"beyond {100 * CLOSE:.0f}). The paper's gain is for 110 layers and more.",
        ),
    ]


def _at_most(samples: Sequence[SeedValues], bound: float) -> bool | None:
    """Whether all of these stay below a bound with every seed; None where seeds do not agree and no sample is above it in all."""
    above = [[value > bound for value in sample.values] for sample in samples]
    if any(all(seeds) for seeds in above):
        return False
    return None if any(any(seeds) for seeds in above) else True
