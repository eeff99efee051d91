"""Ablation: blocks deleted or swapped after training, and gradients by path (Veit et al. 2016).

Veit et al. call a deleted or moved block a "lesion".
"""

from collections.abc import Sequence

from training.experiments.ablation_figures import report_sections
from training.experiments.ablation_measurements import PATH_IMAGES, measure_network
from training.experiments.ablation_verdicts import CLAIM, SOURCES, verdicts
from training.experiments.experiment_report import ExperimentReport
from training.experiments.laboratory import TWIN_FAMILIES, Laboratory
from training.experiments.run_description import describe_runs, experiment_command
from training.experiments.sample_images import SampleTestImages


def run_experiment(
    laboratory: Laboratory, depth: int, seeds: Sequence[int], images: int, draws: int
) -> ExperimentReport:
    """Train both networks, then delete and swap their blocks. Raises TrainingError."""
    names = [f"{family}{depth}" for family in TWIN_FAMILIES]
    trained = laboratory.train_all(names, seeds)
    runs = {name: [trained[name, seed] for seed in seeds] for name in names}
    test_images, path_images = (
        SampleTestImages(laboratory, runs[names[0]][0], count) for count in (images, PATH_IMAGES)
    )
    plain, residual = (
        measure_network(laboratory, runs[name], test_images, draws) for name in names
    )
    chance = 1 - 1 / len(laboratory.images.class_names)
    arguments = ("--depth", depth, "--images", images, "--draws", draws)
    return ExperimentReport(
        name="ablation",
        title="Ablation: is a residual network many networks?",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(plain, residual, chance),
        sections=report_sections(
            plain,
            residual,
            chance,
            seeds=seeds,
            images=len(test_images),
            draws=draws,
            path_images=len(path_images),
        ),
        run_description=describe_runs(laboratory, [run for name in names for run in runs[name]]),
        commands=[experiment_command(laboratory, "ablation", *arguments, seeds=seeds)],
    )
