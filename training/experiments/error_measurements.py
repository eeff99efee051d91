"""Networks beside each other, each trained with several seeds: their curves in one figure, their errors in one table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.errors import RunError
from training.experiments.experiment_report import ReportColumn, ReportFigure, Table, drawn
from training.experiments.laboratory import Laboratory, TrainedRun
from training.learning.networks import parse_architecture
from training.reports.figures import Line, draw_lines
from training.statistics import SeedValues

KINDS: Final = ("training", "test")
PUBLISHED: Final = {
    "resnet20": 0.0875,
    "resnet32": 0.0751,
    "resnet44": 0.0717,
    "resnet56": 0.0697,
    "resnet110": 0.0643,
}
"""Test error on CIFAR-10 in He et al. 2015, table 6, which has none of plain networks and none of other shortcuts."""


@dataclass(frozen=True)
class SeedGroup:
    """The finished runs of one network, a seed each."""

    runs: Sequence[TrainedRun]

    @property
    def name(self) -> str:
        """The network's."""
        return self.runs[0].architecture

    @property
    def depth(self) -> int:
        """Its layers with weights."""
        return parse_architecture(self.name).depth

    def error(self, accuracy: str) -> SeedValues:
        """An accuracy of the last epoch as an error, over the seeds."""
        return SeedValues([1 - run.last(accuracy) for run in self.runs])

    def curve(self, kind: str) -> tuple[list[int], NDArray[np.float64]]:
        """Iterations, and the training error up to each or the test error after each epoch, float `[seeds, points]`."""
        if kind == "training":
            curves = [run.curve() for run in self.runs]
            if len({tuple(point.iteration for point in curve) for curve in curves}) > 1:
                raise RunError(
                    f"one run of {self.name} was trained on a GPU, another on a CPU, and their curves have other points"
                )
            return [point.iteration for point in curves[0]], np.array(
                [[point.error for point in curve] for curve in curves]
            )
        iterations = [int(line["step"]) for line in self.runs[0].history]
        return iterations, np.array(
            [[1 - line["test_top1"] for line in run.history] for run in self.runs]
        )

    @property
    def still_falling(self) -> float:
        """How far the mean training error fell from the last tenth but one of the iterations to the last one."""
        errors = self.curve("training")[1].mean(axis=0)
        part = max(1, len(errors) // 10)
        return (
            float(errors[-2 * part : -part].mean() - errors[-part:].mean())
            if len(errors) > 1
            else 0.0
        )


def train_groups(
    laboratory: Laboratory, architectures: Sequence[str], seeds: Sequence[int]
) -> dict[str, SeedGroup]:
    """Train each network with each seed, all of them with the first seed first; what is trained already is read."""
    laboratory.require(architectures)
    runs = {
        (architecture, seed): laboratory.train(architecture, seed)
        for seed in seeds
        for architecture in architectures
    }
    return {
        architecture: SeedGroup([runs[architecture, seed] for seed in seeds])
        for architecture in architectures
    }


def draw_group_curves(
    name: str,
    title: str,
    groups: Sequence[SeedGroup],
    kinds: Sequence[str] = KINDS,
    top: float | None = None,
) -> ReportFigure:
    """Errors by iteration up to `top`, training dashed, test solid: means, and a band of one standard deviation over the seeds."""
    lines = []
    for series, group in enumerate(groups):
        for kind in kinds:
            iterations, errors = group.curve(kind)
            spread = errors.std(axis=0, ddof=1).tolist() if len(errors) > 1 else None
            label = f"{group.name}, {kind}" if len(kinds) > 1 else group.name
            lines.append(
                Line(
                    label,
                    iterations,
                    errors.mean(axis=0).tolist(),
                    series,
                    dashed=kind == "training",
                    spread=spread,
                )
            )
    drawing = draw_lines(
        f"{name} curves", lines, x="iteration", y="error", percent=True, limits=(0, top)
    )
    described = " and ".join(
        f"{kind} error ({'dashed' if kind == 'training' else 'solid'})" for kind in kinds
    )
    band = "; bands: one standard deviation over the seeds" if len(groups[0].runs) > 1 else ""
    return ReportFigure(
        f"{name}-curves", f"{title}: {described} by iteration{band}", drawn(drawing)
    )


def highest(groups: Iterable[SeedGroup]) -> float:
    """The end of an axis that holds every curve of these networks, so that figures may be held beside each other."""
    return 1.05 * max(float(group.curve(kind)[1].max()) for group in groups for kind in KINDS)


def at_rest(groups: Iterable[SeedGroup]) -> str:
    """How far training errors still fell at the end, in a sentence."""
    group = max(groups, key=lambda group: group.still_falling)
    last = group.runs[0].history[-1]
    return (
        f"In the last tenth of the iterations (learning rate {last['learning_rate']:.3g}) training errors lie at most "
        f"{100 * max(0.0, group.still_falling):.1f} points below those of the tenth before ({group.name}). What a longer schedule "
        "gives was not tried."
    )


def error_table(name: str, groups: Sequence[SeedGroup], *, beside_paper: bool) -> Table:
    """Errors at the end; on CIFAR-10 with the paper's beside them."""
    columns = [
        *(
            ReportColumn("network"),
            ReportColumn("weights", "whole"),
            ReportColumn("seeds", "whole"),
        ),
        *(ReportColumn("training error", "percent"), ReportColumn("± training", "percent")),
        *(ReportColumn("test error", "percent"), ReportColumn("± test", "percent")),
        *([ReportColumn("He et al. 2015, test error", "percent")] if beside_paper else []),
    ]
    rows = []
    for group in groups:
        training, test = group.error("train_top1"), group.error("test_top1")
        weights = sum(parameter.numel() for parameter in group.runs[0].trained.network.parameters())
        published = [PUBLISHED.get(group.name)] if beside_paper else []
        rows.append(
            (
                group.name,
                weights,
                len(group.runs),
                training.mean,
                training.deviation,
                test.mean,
                test.deviation,
                *published,
            )
        )
    caption = "Errors in and after the last epoch: mean and standard deviation over the seeds"
    if beside_paper:
        caption += "; the paper trains for 64,000 iterations, on CIFAR-10's own arrays"
    return Table(name, caption, columns, rows)


def points_table(name: str, groups: Sequence[SeedGroup]) -> Table:
    """Every point of the curves, a row each: for a file."""
    rows: list[tuple[str, int, str, int, float]] = []
    for group in groups:
        for kind in KINDS:
            iterations, errors = group.curve(kind)
            for run, curve in zip(group.runs, errors.round(6).tolist(), strict=True):
                rows += [
                    (group.name, run.seed, kind, *point)
                    for point in zip(iterations, curve, strict=True)
                ]
    columns = (
        ReportColumn("network"),
        ReportColumn("seed", "whole"),
        ReportColumn("error of"),
        ReportColumn("iteration", "whole"),
        ReportColumn("error", "percent"),
    )
    return Table(name, "points of the curves", columns, rows)
