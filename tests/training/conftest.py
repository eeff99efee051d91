"""Fixtures: one short real run, made once per test process, and copies of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import begin_short_run

from training.run.data import open_run_data
from training.run.directory import RunDirectory
from training.steps.calibrate import calibrate
from training.steps.evaluate import evaluate
from training.steps.export import export
from training.steps.golden import take_golden
from training.steps.train import train


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache directory of the tests and their child processes, in place of the user's."""
    directory = tmp_path_factory.mktemp("cache")
    pytest.MonkeyPatch().setenv("XDG_CACHE_HOME", str(directory))
    return directory


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run with all steps up to the golden images. Tests must not write to it."""
    run = begin_short_run(tmp_path_factory.mktemp("runs"), "epochs=3")
    data = open_run_data(run)
    train(run, data)
    evaluate(run, data)
    calibrate(run, data)
    export(run)
    take_golden(run, data)
    return run


@pytest.fixture
def run_copy(finished_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of the finished run that the test may change."""
    return RunDirectory(Path(shutil.copytree(finished_run.path, tmp_path / finished_run.run_id)))


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """A function that begins a run, with changes of the recipe and values of the request."""

    def make(*changes: str, **values: object) -> RunDirectory:
        return begin_short_run(tmp_path / "runs", *changes, **values)

    return make
