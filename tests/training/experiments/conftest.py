"""A laboratory on the digits, whose trainings are a few steps long and are made once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from training.beginning import Wish
from training.display import TrainingDisplay
from training.experiments.laboratory import Laboratory
from training.learning.process import ALONE

LENGTH = "iterations=12"  # an epoch of the digits is 10


def laboratory_at(runs: Path, interrupted: Callable[[], bool] = lambda: False, *changes: str) -> Laboratory:
    """A laboratory that trains for 12 steps, or as the changes say."""
    wish = Wish(("digits",), recipe="experiment", changes=(LENGTH, *changes), golden_samples=0)
    return Laboratory(wish, runs, TrainingDisplay(Console(quiet=True)), ALONE, interrupted)


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """One that all tests share: what is trained in it is trained once."""
    return laboratory_at(tmp_path_factory.mktemp("laboratory"))
