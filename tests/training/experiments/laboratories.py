"""Laboratories whose trainings are a few steps long, and runs that never were."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from training.display import TrainingDisplay
from training.experiments.error_measurements import SeedGroup
from training.experiments.laboratory import Laboratory, TrainedRun
from training.experiments.training_curve import CurvePoint, write_curve
from training.learning.distributed import SINGLE_PROCESS
from training.run.directory import RunDirectory
from training.run.request import RunRequest

LENGTH = "iterations=12"  # an epoch of the digits is 10


def laboratory_at(
    runs: Path, interrupted: Callable[[], bool] = lambda: False, *changes: str
) -> Laboratory:
    """A laboratory on the digits that trains for 12 steps, or as the changes say."""
    wish = RunRequest(
        ("digits",), recipe="experiment", changes=(LENGTH, *changes), golden_samples=0
    )
    return Laboratory(wish, runs, TrainingDisplay(Console(quiet=True)), SINGLE_PROCESS, interrupted)


def group(folder: Path, name: str, *errors: float) -> SeedGroup:
    """Runs of a network, a seed each, that ended with these training errors (and a test error a little above)."""
    config = laboratory_at(folder).config(name, 0)
    runs = []
    for seed, error in enumerate(errors):
        directory = RunDirectory(folder / f"{name}-{seed}")
        directory.path.mkdir()
        write_curve(directory, [CurvePoint(1, 100, 90), CurvePoint(2, 100, round(100 * error))])
        history = [{"step": 2, "epoch": 1, "train_top1": 1 - error, "test_top1": 0.99 - error}]
        runs.append(TrainedRun(directory, config.model_copy(update={"seed": seed}), history))
    return SeedGroup(runs)
