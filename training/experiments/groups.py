"""Networks beside each other, each trained with several seeds: their curves in one figure, their errors in one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.experiments.laboratory import Laboratory, TrainedRun
from training.experiments.report import Column, Figure, Table, drawn
from training.experiments.statistics import Sample
from training.learning.networks import parse_architecture
from training.reports.figures import Line, draw_lines

PUBLISHED: Final = {"resnet20": 0.0875, "resnet32": 0.0751, "resnet44": 0.0717, "resnet56": 0.0697, "resnet110": 0.0643}
"""Test error on CIFAR-10 in He et al. 2015, table 6, which has none of plain networks and none of other shortcuts."""


@dataclass(frozen=True)
class Group:
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

    def error(self, accuracy: str) -> Sample:
        """An accuracy of the last epoch as an error, over the seeds."""
        return Sample([1 - run.last(accuracy) for run in self.runs])

    def training_curve(self) -> tuple[list[int], NDArray[np.float64]]:
        """Iterations, and the training error at each of them, float `[seeds, points]`."""
        curves = [run.curve() for run in self.runs]
        return curves[0][0], np.array([errors for _, errors in curves])

    def test_curve(self) -> tuple[list[int], NDArray[np.float64]]:
        """The iterations at which epochs end, and the test error at each, float `[seeds, epochs]`."""
        steps = [int(line["step"]) for line in self.runs[0].history]
        return steps, np.array([[1 - line["test_top1"] for line in run.history] for run in self.runs])


def train_groups(laboratory: Laboratory, architectures: Sequence[str], seeds: Sequence[int]) -> dict[str, Group]:
    """Train each network with each seed, all of them with the first seed first; what is trained already is read."""
    runs = {(architecture, seed): laboratory.train(architecture, seed) for seed in seeds for architecture in architectures}
    return {architecture: Group([runs[architecture, seed] for seed in seeds]) for architecture in architectures}


def draw_group_curves(name: str, title: str, groups: Sequence[Group]) -> Figure:
    """Training (dashed) and test error (solid) by iteration; the mean over the seeds, and a band of one standard deviation."""
    lines = []
    for series, group in enumerate(groups):
        for (steps, errors), what in ((group.training_curve(), "training"), (group.test_curve(), "test")):
            spread = errors.std(axis=0, ddof=1).tolist() if len(errors) > 1 else None
            mean = errors.mean(axis=0).tolist()
            lines.append(Line(f"{group.name}, {what}", steps, mean, series, dashed=what == "training", spread=spread))
    drawing = draw_lines(f"{name} curves", lines, x="iteration", y="error", percent=True, limits=(0, None))
    band = ", with one standard deviation over the seeds" if len(groups[0].runs) > 1 else ""
    return Figure(f"{name}-curves", f"{title}: training error (dashed) and test error (solid) by iteration{band}", drawn(drawing))


def error_table(name: str, groups: Sequence[Group], *, beside_paper: bool) -> Table:
    """Errors at the end; on CIFAR-10 with the paper's beside them."""
    columns = [
        *(Column("network"), Column("weights", "whole"), Column("seeds", "whole")),
        *(Column("training error", "percent"), Column("± training", "percent")),
        *(Column("test error", "percent"), Column("± test", "percent")),
        *([Column("He et al. 2015, test error", "percent")] if beside_paper else []),
    ]
    rows = []
    for group in groups:
        training, test = group.error("train_top1"), group.error("test_top1")
        weights = sum(parameter.numel() for parameter in group.runs[0].trained.network.parameters())
        published = [PUBLISHED.get(group.name)] if beside_paper else []
        rows.append(
            (group.name, weights, len(group.runs), training.mean, training.deviation, test.mean, test.deviation, *published)
        )
    caption = "Errors in and after the last epoch: mean and standard deviation over the seeds"
    if beside_paper:
        caption += "; the paper trains for 64,000 iterations, on CIFAR-10's own arrays"
    return Table(name, caption, columns, rows)


def points_table(name: str, groups: Sequence[Group]) -> Table:
    """Every point of the curves, a row each: for a file."""
    rows: list[tuple[str, int, str, int, float]] = []
    for group in groups:
        for (steps, errors), what in ((group.training_curve(), "training"), (group.test_curve(), "test")):
            for run, curve in zip(group.runs, errors, strict=True):
                rows += [
                    (group.name, run.seed, what, step, round(error, 6)) for step, error in zip(steps, curve.tolist(), strict=True)
                ]
    columns = (
        Column("network"),
        Column("seed", "whole"),
        Column("error of"),
        Column("iteration", "whole"),
        Column("error", "percent"),
    )
    return Table(name, "points of the curves", columns, rows)
