"""Shortcuts: none, options A, B and C, and pre-activation (He et al. 2015, section 4.1; 2016)."""

from collections.abc import Sequence
from typing import Final

from training.experiments.error_figures import (
    curve_table,
    describe_convergence,
    draw_error_curves,
    error_table,
    highest_error,
)
from training.experiments.error_measurements import ERROR_KINDS, train_groups
from training.experiments.experiment_report import ExperimentReport, ReportSection
from training.experiments.laboratory import Laboratory
from training.experiments.run_description import describe_runs, experiment_command, is_cifar10
from training.experiments.shortcuts_verdicts import CLAIM, METHOD, SOURCES, verdicts

NETWORKS: Final = ("plain{}", "resnet{}", "resnet{}-b", "resnet{}-c", "preresnet{}")


def run_experiment(laboratory: Laboratory, depth: int, seeds: Sequence[int]) -> ExperimentReport:
    """Train the five networks and compare their errors. Raises TrainingError."""
    names = [network.format(depth) for network in NETWORKS]
    groups = list(train_groups(laboratory, names, seeds).values())
    title, top = f"Networks of {depth} layers", highest_error(groups)
    return ExperimentReport(
        name="shortcuts",
        title="Shortcuts: none, A, B, C, and pre-activation",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(*groups),
        sections=[
            ReportSection(
                "Five networks, one recipe",
                [METHOD.format(depth), describe_convergence(groups)],
                [draw_error_curves(kind, title, groups, top, [kind]) for kind in ERROR_KINDS],
                [error_table("errors", groups, with_paper=is_cifar10(laboratory))],
                [curve_table("curves", groups)],
            )
        ],
        run_description=describe_runs(laboratory, [run for g in groups for run in g.runs]),
        commands=[experiment_command(laboratory, "shortcuts", "--depth", depth, seeds=seeds)],
    )
