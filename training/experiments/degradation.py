"""Degradation: plain and residual networks of several depths, one recipe, the same seeds (He et al. 2015, figures 1 and 6)."""

import itertools
from collections.abc import Sequence
from typing import Final

from training.errors import RecipeError
from training.experiments.error_measurements import (
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
from training.experiments.run_description import command, describe, is_cifar10, publishing
from training.statistics import listed, seeds_of

NAMES: Final = {"plain": "Plain networks", "resnet": "Residual networks"}
SOURCES: Final = ("He et al. 2015, sections 1, 4.1 and 4.2, figures 1 and 6",)
CLAIM: Final = (
    "Beyond some depth, stacking more layers onto a plain network raises its training error, which no over-fitting does. The same "
    "layers with shortcuts around them do not have this problem."
)
METHOD: Final = (
    "Every network is trained by the same recipe and with the same seeds as its twin. A plain network is the residual one without "
    "its shortcuts: as many weights, the same cost. Dashed: training error on the augmented images of the iterations since the "
    "point before. Solid: test error after each epoch, which is drawn and chooses nothing, since the last epoch counts."
)

SERVING: Final = (
    "{} can be published to the store and served beside each other: the commands below do it. A gate that one of them does not "
    "pass is said, and can be waived with a reason."
)


def perform(laboratory: Laboratory, depths: Sequence[int], seeds: Sequence[int]) -> Report:
    """Train all of them (what is trained already is read), and say what came out. Raises TrainingError."""
    if len(depths) < 2:
        raise RecipeError("one depth shows nothing: give two or more, as in --depths 20,56")
    groups = train_groups(
        laboratory, [f"{kind}{depth}" for kind in NAMES for depth in depths], seeds
    )
    by_kind = {kind: [groups[f"{kind}{depth}"] for depth in depths] for kind in NAMES}
    runs = [run for group in groups.values() for run in group.runs]
    top = highest(groups.values())
    deepest = [by_kind[kind][-1] for kind in NAMES]
    return Report(
        name="degradation",
        title="Degradation: do deeper plain networks train worse?",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(by_kind["plain"], by_kind["resnet"]),
        parts=[
            ReportSection(
                "Training and test error",
                [METHOD, at_rest(groups.values())],
                [
                    draw_group_curves(kind, called, by_kind[kind], top=top)
                    for kind, called in NAMES.items()
                ],
                [error_table("errors", list(groups.values()), beside_paper=is_cifar10(laboratory))],
                [points_table("curves", list(groups.values()))],
            ),
            ReportSection(
                "Both on the same photograph",
                [SERVING.format(listed((group.name for group in deepest), " and "))],
            ),
        ],
        setting=describe(laboratory, runs),
        commands=[
            command(laboratory, "degradation", "--depths", listed(depths, ","), seeds=seeds),
            *(publishing(laboratory, group.runs[0]) for group in deepest),
        ],
    )


def verdicts(plain: Sequence[SeedGroup], residual: Sequence[SeedGroup]) -> list[Verdict]:
    """What the training errors say, for each step in depth: of plain networks, of residual ones, and of both together."""
    said = []
    for (shallow, deep), (short, long) in zip(
        itertools.pairwise(plain), itertools.pairwise(residual), strict=True
    ):
        worse = deep.error("train_top1") - shallow.error("train_top1")
        tested = deep.error("test_top1") - shallow.error("test_top1")
        said.append(
            Verdict(
                worse.agree(),
                f"Degradation: {deep.name}'s training error is {worse.points} {_above(worse.mean)} {shallow.name}'s, over "
                f"{seeds_of(len(deep.runs))}; its test error is {tested.points} {_above(tested.mean)}."
                + (
                    " A network that over-fits has the lower training error; this one has not."
                    if worse.agree()
                    else ""
                ),
            )
        )
        kept = long.error("train_top1") - short.error("train_top1")
        agreed = kept.agree()
        said.append(
            Verdict(
                None if agreed is None else not agreed,
                f"With shortcuts: {long.name}'s training error is {kept.points} {_above(kept.mean)} {short.name}'s.",
            )
        )
        gap = worse - kept
        said.append(
            Verdict(
                gap.agree(),
                f"What shortcuts change: going from {shallow.depth} to {deep.depth} layers costs a plain network {gap.points} "
                f"{'more' if gap.mean > 0 else 'less'} training error than it costs a residual one.",
            )
        )
    return said


def _above(difference: float) -> str:
    return "above" if difference > 0 else "below"
