"""Laboratories with trainings of a few steps, and runs with invented errors."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from training.display import TrainingDisplay
from training.experiments.error_measurements import SeedGroup
from training.experiments.laboratory import Laboratory
from training.experiments.trained_run import TrainedRun
from training.experiments.training_curve import CurvePoint, write_curve
from training.learning.distributed import SINGLE_PROCESS
from training.run.directory import Run
from training.run.request import RunRequest

SHORT = "iterations=12"  # one epoch of the digits has 10


def laboratory_at(
    runs: Path, interrupted: Callable[[], bool] = lambda: False, *changes: str
) -> Laboratory:
    """A laboratory on the digits that trains for 12 steps unless `changes` say otherwise."""
    request = RunRequest(
        ("digits",), recipe="experiment", changes=(SHORT, *changes), golden_samples=0
    )
    display = TrainingDisplay(Console(quiet=True))
    return Laboratory(request, runs, display, SINGLE_PROCESS, interrupted)


def interrupted_copy(laboratory: Laboratory) -> Laboratory:
    """The same laboratory, whose user asks to stop at once."""
    return laboratory_at(laboratory.runs, lambda: True)


def group(folder: Path, name: str, *errors: float) -> SeedGroup:
    """Runs of a network with these training errors, one per seed. Test errors are 0.01 higher."""
    config = laboratory_at(folder).config(name, 0)
    runs = []
    for seed, error in enumerate(errors):
        directory = Run.create_at(folder / f"{name}-{seed}", config)
        write_curve(directory, [CurvePoint(1, 100, 90), CurvePoint(2, 100, round(100 * error))])
        history = [{"step": 2, "epoch": 1, "train_top1": 1 - error, "test_top1": 0.99 - error}]
        runs.append(TrainedRun(directory, config.model_copy(update={"seed": seed}), history))
    return SeedGroup(runs)
