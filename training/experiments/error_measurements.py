"""Training and test errors of networks that were trained with several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.errors import RunError
from training.experiments.laboratory import Laboratory
from training.experiments.trained_run import TrainedRun
from training.learning.architectures import parse_architecture
from training.statistics import SeedValues

ERROR_KINDS: Final = ("training", "test")


@dataclass(frozen=True)
class SeedGroup:
    """The finished runs of one network, one per seed."""

    runs: Sequence[TrainedRun]

    @property
    def name(self) -> str:
        return self.runs[0].architecture

    @property
    def depth(self) -> int:
        """Number of layers with weights."""
        return parse_architecture(self.name).depth

    @property
    def training_error(self) -> SeedValues:
        """Training error of the last epoch."""
        return SeedValues([1 - run.final_metric("train_top1") for run in self.runs])

    @property
    def test_error(self) -> SeedValues:
        """Test error after the last epoch."""
        return SeedValues([1 - run.final_metric("test_top1") for run in self.runs])

    def curve(self, kind: str) -> tuple[list[int], NDArray[np.float64]]:
        """Iterations, and the errors `[seeds, points]` at these. `kind` is one of ERROR_KINDS."""
        if kind == "training":
            return self._training_curve()
        iterations = [int(line["step"]) for line in self.runs[0].history]
        errors = [[1 - line["test_top1"] for line in run.history] for run in self.runs]
        return iterations, np.array(errors)

    def _training_curve(self) -> tuple[list[int], NDArray[np.float64]]:
        curves = [run.training_curve() for run in self.runs]
        if len({tuple(point.iteration for point in curve) for curve in curves}) > 1:
            raise RunError(
                f"The curves of {self.name} have different points for different seeds: some runs "
                "were trained on a GPU, others on a CPU. Train all seeds on the same device."
            )
        iterations = [point.iteration for point in curves[0]]
        return iterations, np.array([[point.error for point in curve] for curve in curves])

    @property
    def final_decrease(self) -> float:
        """Mean training error of the second-last tenth of the curve minus that of the last one."""
        errors = self.curve("training")[1].mean(axis=0)
        if len(errors) == 1:
            return 0.0
        part = max(1, len(errors) // 10)
        return float(errors[-2 * part : -part].mean() - errors[-part:].mean())


def train_groups(
    laboratory: Laboratory, architectures: Sequence[str], seeds: Sequence[int]
) -> dict[str, SeedGroup]:
    """Train each network with each seed, by name."""
    runs = laboratory.train_all(architectures, seeds)
    return {name: SeedGroup([runs[name, seed] for seed in seeds]) for name in architectures}
