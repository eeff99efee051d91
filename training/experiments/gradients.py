"""Gradients: their norms by layer in the first steps, and the loss around trained weights (He et al. 2015; Li et al. 2018)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.errors import InterruptedRunError
from training.experiments.experiment_report import (
    Report,
    ReportColumn,
    ReportFigure,
    ReportSection,
    Table,
    drawn,
)
from training.experiments.gradients_verdicts import (
    CLAIM,
    CLIPPED,
    NORMS,
    SOURCES,
    SURFACE,
    WINDOW,
    verdicts,
)
from training.experiments.laboratory import TWINS, Laboratory, TrainedRun
from training.experiments.loss_surface import CEILING, basin, grid, measure_surface, minima
from training.experiments.run_description import command, describe
from training.experiments.training_steps import prepare, sample_images, take_steps
from training.learning.learner import Learner
from training.learning.optimization import learning_rate_factor
from training.reports.figures import Line, draw_lines, draw_surfaces
from training.statistics import listed

SURFACE_IMAGES: Final = 256

Norms = Mapping[str, NDArray[np.float64]]
"""Gradient norms of a network's layers by its name, float `[seeds, steps, layers]`."""


def perform(
    laboratory: Laboratory, depths: Sequence[int], seeds: Sequence[int], steps: int, points: int
) -> Report:
    """Measure both; the deepest networks are trained (or read) for the surface. Raises TrainingError."""
    laboratory.require([f"{family}{depth}" for depth in depths for family in TWINS])
    runs = {
        (family, seed): laboratory.train(f"{family}{depths[-1]}", seed)
        for seed in seeds
        for family in TWINS
    }
    names = [f"{family}{depth}" for depth in depths for family in TWINS]
    norms = {
        name: np.array(
            [measure_norms(laboratory, runs[TWINS[0], seed], name, seed, steps) for seed in seeds]
        )
        for name in names
    }
    surfaces = {
        run.architecture: surface(laboratory, run, points)
        for (_, seed), run in runs.items()
        if seed == seeds[0]
    }
    around: dict[str, list[list[float]]] = {
        name: measured["losses"] for name, measured in surfaces.items()
    }
    taken, clip_norm = (
        norms[names[0]].shape[1],
        next(iter(runs.values())).config.recipe.optimizer.clip_norm,
    )
    classes = len(laboratory.images.class_names)
    return Report(
        name="gradients",
        title="Gradients by layer, and the loss around the weights",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(norms, around, depths, classes),
        parts=[
            ReportSection(
                "Gradient norms by layer",
                [
                    NORMS.format(
                        steps=taken,
                        window=min(WINDOW, taken),
                        clipped=CLIPPED.format(clip_norm) if clip_norm else "",
                    )
                ],
                [
                    draw_norms(
                        depth, {f"{family}{depth}": norms[f"{family}{depth}"] for family in TWINS}
                    )
                    for depth in depths
                ],
                [norms_table(norms)],
                [points_table(norms, seeds)],
            ),
            ReportSection(
                "The loss around trained weights",
                [
                    SURFACE.format(
                        images=next(iter(surfaces.values()))["images"], points=points, seed=seeds[0]
                    )
                ],
                [draw_around(around, points)],
                [surface_table(around, classes)],
                [surface_points(around, points)],
            ),
        ],
        setting=describe(laboratory, list(runs.values())),
        commands=[
            command(
                *(laboratory, "gradients", "--depths", listed(depths, ",")),
                *("--steps", str(steps), "--grid", str(points)),
                seeds=seeds,
            )
        ],
    )


def measure_norms(
    laboratory: Laboratory, run: TrainedRun, name: str, seed: int, steps: int
) -> list[list[float]]:
    """Gradient norms of a network's 3x3 convolutions, in order of depth, at each of its first steps on the images of a run."""
    of = {"run": laboratory.directory(name, seed).run_id, "data": run.data_digest, "steps": steps}
    found: list[list[float]] = laboratory.measured(
        f"gradients-{name}", of, lambda: _measure_norms(laboratory, run, name, seed, steps)
    )
    return found


def _measure_norms(
    laboratory: Laboratory, run: TrainedRun, name: str, seed: int, steps: int
) -> list[list[float]]:
    loader, determinism = prepare(laboratory, run)
    recipe, total = run.config.recipe, loader.total_steps
    learner = Learner(laboratory.untrained(name, seed), recipe, laboratory.process, determinism)
    taken = take_steps(
        laboratory,
        learner,
        loader,
        steps,
        f"{name} begins",
        lambda step: learning_rate_factor(recipe.schedule, step, total),
    )
    return [gradient_norms(learner.network) for _ in taken]


def gradient_norms(network: nn.Module) -> list[float]:
    """The norm of each 3x3 convolution's gradient, as a backward pass has left it, in the order in which they run."""
    gradients = [
        module.weight.grad
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.weight.grad is not None
    ]
    return torch.stack([gradient.norm() for gradient in gradients]).tolist()


def windows(norms: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Norms `[seeds, steps, layers]` averaged over the first step, the first ten and the last ten: `[seeds, layers]` each."""
    steps = norms.shape[1]
    first, last = min(WINDOW, steps), max(0, steps - WINDOW)
    return {
        "step 1": norms[:, 0],
        f"steps 1-{first}": norms[:, :first].mean(axis=1),
        f"steps {last + 1}-{steps}": norms[:, last:].mean(axis=1),
    }


def surface(laboratory: Laboratory, run: TrainedRun, points: int) -> dict[str, Any]:
    """The `losses` around a run's trained weights, and of how many `images`."""
    of = run.identity() | {
        "images": SURFACE_IMAGES,
        "points": points,
        "directions": run.seed,
        "ceiling": CEILING,
    }
    found: dict[str, Any] = laboratory.measured(
        f"surface-{run.architecture}", of, lambda: _surface(laboratory, run, points)
    )
    return found


def _surface(laboratory: Laboratory, run: TrainedRun, points: int) -> dict[str, Any]:
    images, labels = sample_images(laboratory, run, SURFACE_IMAGES)
    network = run.trained.network.to(images.device)
    shown = laboratory.display.count(f"the loss around {run.architecture}")

    def advance(done: int, of: int) -> None:
        shown(done, of)
        if laboratory.interrupted():
            raise InterruptedRunError(f"stopped at point {done} of {of} around {run.architecture}")

    return {
        "images": len(images),
        "losses": measure_surface(network, images, labels, grid(points), run.seed, advance),
    }


def draw_norms(depth: int, norms: Norms) -> ReportFigure:
    """Norms by layer: the first step dashed, the last ones solid, geometric means over the seeds."""
    lines = []
    for series, (name, values) in enumerate(norms.items()):
        of = windows(values)
        for window, dashed in (("step 1", True), (list(of)[-1], False)):
            means = np.exp(np.log(of[window]).mean(axis=0)).tolist()
            lines.append(
                Line(
                    f"{name}, {window}",
                    list(range(1, len(means) + 1)),
                    means,
                    series,
                    dashed=dashed,
                )
            )
    drawing = draw_lines(
        f"gradients {depth}",
        lines,
        x="3x3 convolution, from the input on",
        y="gradient norm",
        logarithmic=True,
    )
    return ReportFigure(
        f"gradients-{depth}",
        f"Gradient norm by layer, {depth} layers: at the first step (dashed) and later (solid)",
        drawn(drawing),
    )


def norms_table(norms: Norms) -> Table:
    """The ends of each network, and the spread over its layers."""
    columns = (
        *(
            ReportColumn("network"),
            ReportColumn("window"),
            ReportColumn("first layer", "scientific"),
            ReportColumn("last layer", "scientific"),
        ),
        *(
            ReportColumn("first / last", "scientific"),
            ReportColumn("largest / smallest", "scientific"),
        ),
    )
    rows = []
    for name, values in norms.items():
        for window, found in windows(values).items():
            means = np.exp(np.log(found).mean(axis=0))
            ends = float(means[0]), float(means[-1])
            rows.append((name, window, *ends, ends[0] / ends[1], float(means.max() / means.min())))
    return Table(
        "gradients",
        "Gradient norms of the first and the last 3x3 convolution (geometric means over the seeds)",
        columns,
        rows,
    )


def points_table(norms: Norms, seeds: Sequence[int]) -> Table:
    """Every mean, for a file."""
    columns = (
        ReportColumn("network"),
        ReportColumn("seed", "whole"),
        ReportColumn("window"),
        ReportColumn("layer", "whole"),
        ReportColumn("norm", "scientific"),
    )
    rows = [
        (name, seed, window, layer, norm)
        for name, values in norms.items()
        for window, found in windows(values).items()
        for seed, of_seed in zip(seeds, found.tolist(), strict=True)
        for layer, norm in enumerate(of_seed, start=1)
    ]
    return Table("gradients-by-layer", "norms by layer", columns, rows)


def draw_around(around: Mapping[str, list[list[float]]], points: int) -> ReportFigure:
    """Contours beside each other."""
    drawing = draw_surfaces("loss surface", grid(points), around)
    caption = "Training loss along two random filter-normalised directions; the mark is where training ended; the same levels in both"
    return ReportFigure("surface", caption, drawing)


def surface_table(around: Mapping[str, list[list[float]]], classes: int) -> Table:
    """The numbers of flatness."""
    columns = (
        *(
            ReportColumn("network"),
            ReportColumn("loss at the centre", "decimals"),
            ReportColumn("highest loss", "scientific"),
        ),
        *(
            ReportColumn("share in the basin", "percent"),
            ReportColumn("local minima on the grid", "whole"),
        ),
    )
    rows = [
        (
            name,
            losses[len(losses) // 2][len(losses) // 2],
            max(map(max, losses)),
            basin(losses, classes),
            minima(losses),
        )
        for name, losses in around.items()
    ]
    return Table(
        "surface",
        f"The square around the weights; the basin ends at the centre's loss + {np.log(classes) / 2:.2f}",
        columns,
        rows,
    )


def surface_points(around: Mapping[str, list[list[float]]], points: int) -> Table:
    """Every loss, for a file."""
    columns = (
        ReportColumn("network"),
        ReportColumn("x", "scientific"),
        ReportColumn("y", "scientific"),
        ReportColumn("loss", "decimals"),
    )
    rows: list[tuple[Any, ...]] = [
        (name, x, y, loss)
        for name, losses in around.items()
        for y, row in zip(grid(points), losses, strict=True)
        for x, loss in zip(grid(points), row, strict=True)
    ]
    return Table("surface-points", "losses around the weights", columns, rows)
