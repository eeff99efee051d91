"""Gradients: norms by layer, and the loss surface (He et al. 2015; Li et al. 2018)."""

from collections.abc import Mapping, Sequence

from training.experiments.experiment_report import ExperimentReport, ReportSection
from training.experiments.gradients_figures import (
    draw_norms,
    draw_surface_contours,
    layer_norms_table,
    norms_table,
    surface_points_table,
    surface_table,
)
from training.experiments.gradients_measurements import (
    NORM_WINDOW,
    LayerNorms,
    measure_norms,
    measure_run_surface,
)
from training.experiments.gradients_verdicts import (
    CLAIM,
    CLIPPING_METHOD,
    NORMS_METHOD,
    SOURCES,
    SURFACE_METHOD,
    verdicts,
)
from training.experiments.laboratory import TWIN_FAMILIES, Laboratory
from training.experiments.loss_surface import Surface
from training.experiments.run_description import describe_runs, experiment_command
from training.statistics import join_values


def run_experiment(
    laboratory: Laboratory, depths: Sequence[int], seeds: Sequence[int], steps: int, points: int
) -> ExperimentReport:
    """Measure gradients at all depths, the loss surface at the largest. Raises TrainingError."""
    names = [f"{family}{depth}" for depth in depths for family in TWIN_FAMILIES]
    laboratory.check_networks(names)
    deepest = [f"{family}{depths[-1]}" for family in TWIN_FAMILIES]
    runs = laboratory.train_all(deepest, seeds)
    source_runs = [runs[deepest[0], seed] for seed in seeds]
    norms = {name: measure_norms(laboratory, source_runs, name, steps) for name in names}
    measured = {
        name: measure_run_surface(laboratory, runs[name, seeds[0]], points) for name in deepest
    }
    surfaces: dict[str, Surface] = {name: values["losses"] for name, values in measured.items()}
    classes = len(laboratory.images.class_names)
    clip_norm = source_runs[0].config.recipe.optimizer.clip_norm
    surface_method = SURFACE_METHOD.format(
        images=measured[deepest[0]]["images"], points=points, seed=seeds[0]
    )
    arguments = ("--depths", join_values(depths, ","), "--steps", steps, "--grid", points)
    return ExperimentReport(
        name="gradients",
        title="Gradients by layer, and the loss around the weights",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(norms, surfaces, depths[-1], classes),
        sections=[
            ReportSection(
                "Gradient norms by layer",
                [_norms_method(norms, clip_norm)],
                [
                    draw_norms(depth, {f"{f}{depth}": norms[f"{f}{depth}"] for f in TWIN_FAMILIES})
                    for depth in depths
                ],
                [norms_table(norms)],
                [layer_norms_table(norms, seeds)],
            ),
            ReportSection(
                "The loss around trained weights",
                [surface_method],
                [draw_surface_contours(surfaces, points)],
                [surface_table(surfaces, classes)],
                [surface_points_table(surfaces, points)],
            ),
        ],
        run_description=describe_runs(laboratory, runs.values()),
        commands=[experiment_command(laboratory, "gradients", *arguments, seeds=seeds)],
    )


def _norms_method(norms: Mapping[str, LayerNorms], clip_norm: float | None) -> str:
    steps = next(iter(norms.values())).shape[1]
    clipping = CLIPPING_METHOD.format(clip_norm) if clip_norm else ""
    return NORMS_METHOD.format(steps=steps, window=min(NORM_WINDOW, steps)) + clipping
