"""Degradation: plain and residual networks of several depths (He et al. 2015, figures 1 and 6)."""

from collections.abc import Sequence
from typing import Final

from training.errors import RecipeError
from training.experiments.degradation_verdicts import CLAIM, METHOD, SERVING, SOURCES, verdicts
from training.experiments.error_figures import (
    curve_table,
    describe_convergence,
    draw_error_curves,
    error_table,
    highest_error,
)
from training.experiments.error_measurements import train_groups
from training.experiments.experiment_report import ExperimentReport, ReportSection
from training.experiments.laboratory import Laboratory
from training.experiments.run_description import (
    describe_runs,
    experiment_command,
    is_cifar10,
    publish_command,
)
from training.statistics import join_values

FAMILY_TITLES: Final = {"plain": "Plain networks", "resnet": "Residual networks"}


def run_experiment(
    laboratory: Laboratory, depths: Sequence[int], seeds: Sequence[int]
) -> ExperimentReport:
    """Train the networks and compare their errors. Raises TrainingError."""
    if len(depths) < 2:
        raise RecipeError("--depths needs at least two depths, such as --depths 20,56.")
    names = [f"{family}{depth}" for family in FAMILY_TITLES for depth in depths]
    groups = train_groups(laboratory, names, seeds)
    by_family = {
        family: [groups[f"{family}{depth}"] for depth in depths] for family in FAMILY_TITLES
    }
    all_groups = list(groups.values())
    top = highest_error(all_groups)
    deepest = [by_family[family][-1] for family in FAMILY_TITLES]
    return ExperimentReport(
        name="degradation",
        title="Degradation: do deeper plain networks train worse?",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(by_family["plain"], by_family["resnet"]),
        sections=[
            ReportSection(
                "Training and test error",
                [METHOD, describe_convergence(all_groups)],
                [
                    draw_error_curves(family, title, by_family[family], top)
                    for family, title in FAMILY_TITLES.items()
                ],
                [error_table("errors", all_groups, with_paper=is_cifar10(laboratory))],
                [curve_table("curves", all_groups)],
            ),
            ReportSection(
                "Both networks on the same photograph",
                [SERVING.format(join_values((group.name for group in deepest), " and "))],
            ),
        ],
        run_description=describe_runs(laboratory, [run for g in all_groups for run in g.runs]),
        commands=[
            experiment_command(
                laboratory, "degradation", "--depths", join_values(depths, ","), seeds=seeds
            ),
            *(publish_command(laboratory, group.runs[0]) for group in deepest),
        ],
    )
