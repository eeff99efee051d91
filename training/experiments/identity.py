"""Identity: a constructed deeper network, and layers that learn to copy (He et al. 2015)."""

from collections.abc import Sequence

from training.errors import RecipeError
from training.experiments.experiment_report import ExperimentReport, ReportSection
from training.experiments.identity_figures import (
    construction_table,
    copying_points_table,
    copying_table,
    draw_copying,
    draw_further_training,
    further_training_table,
)
from training.experiments.identity_measurements import (
    COPIED_STAGE,
    RATE_FACTOR,
    STACK_SEEDS,
    construct,
    measure_copying,
)
from training.experiments.identity_stacks import (
    FINAL_STEPS,
    STACK_MOMENTUM,
    STACK_RATES,
    CopyingErrors,
)
from training.experiments.identity_verdicts import (
    CLAIM,
    CONSTRUCTION_METHOD,
    COPYING_METHOD,
    FURTHER_TRAINING_METHOD,
    SOURCES,
    verdicts,
)
from training.experiments.laboratory import TWIN_FAMILIES, Laboratory
from training.experiments.run_description import describe_runs, experiment_command
from training.learning.architectures import parse_architecture
from training.statistics import join_values


def run_experiment(
    laboratory: Laboratory,
    depth: int,
    deeper: int,
    seeds: Sequence[int],
    steps: int,
    copy_steps: int,
) -> ExperimentReport:
    """Train the shallower networks and build on them. Raises TrainingError."""
    _check_depths(laboratory, depth, deeper)
    runs = laboratory.train_all([f"{family}{depth}" for family in TWIN_FAMILIES], seeds)
    built = {
        family: [
            construct(laboratory, runs[f"{family}{depth}", seed], deeper, steps) for seed in seeds
        ]
        for family in TWIN_FAMILIES
    }
    source = runs[f"resnet{depth}", seeds[0]]
    copied, copied_images = measure_copying(laboratory, source, copy_steps)
    rate = RATE_FACTOR * source.config.recipe.optimizer.learning_rate
    first = built["plain"][0]
    arguments = ("--depth", depth, "--deeper", deeper, "--steps", steps, "--copy-steps", copy_steps)
    return ExperimentReport(
        name="identity",
        title="Identity: can a deeper network copy a shallower one, and can layers learn it?",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(built, copied, depth, deeper),
        sections=[
            ReportSection(
                "The constructed solution",
                [
                    CONSTRUCTION_METHOD.format(
                        depth=depth, deeper=deeper, images=f"{first.images:,}"
                    )
                ],
                tables=[construction_table(built, depth, deeper, seeds)],
            ),
            ReportSection(
                "Further training",
                [
                    FURTHER_TRAINING_METHOD.format(
                        rate=f"{rate:g}", steps=len(first.trained_on["deep"])
                    )
                ],
                [
                    draw_further_training(family, pairs, depth, deeper)
                    for family, pairs in built.items()
                ],
                csv_tables=[further_training_table(built, depth, deeper, seeds)],
            ),
            ReportSection(
                "Learning the identity",
                [_copying_method(f"resnet{depth} (seed {seeds[0]})", copied, copied_images)],
                [draw_copying(copied)],
                [copying_table(copied)],
                [copying_points_table(copied)],
            ),
        ],
        run_description=describe_runs(laboratory, runs.values()),
        commands=[experiment_command(laboratory, "identity", *arguments, seeds=seeds)],
    )


def _check_depths(laboratory: Laboratory, depth: int, deeper: int) -> None:
    laboratory.check_networks(
        [f"{family}{layers}" for layers in (depth, deeper) for family in TWIN_FAMILIES]
    )
    if parse_architecture(f"plain{depth}").style != "cifar":
        raise RecipeError(
            f"--depth must be the depth of a network for small images (20, 32, 44, 56 or 110), got "
            f"{depth}."
        )
    if deeper <= depth:
        raise RecipeError(f"--deeper must be larger than --depth ({depth}), got {deeper}.")


def _copying_method(network: str, copied: Sequence[CopyingErrors], images: int) -> str:
    steps = copied[0].errors.shape[1]
    return COPYING_METHOD.format(
        images=f"{images:,}",
        network=network,
        stage=COPIED_STAGE,
        momentum=STACK_MOMENTUM,
        rates=join_values(STACK_RATES, " and "),
        starts=len(STACK_SEEDS),
        steps=steps,
        final_steps=min(FINAL_STEPS, steps),
    )
