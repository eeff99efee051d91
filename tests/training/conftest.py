"""A short real run, trained once per session, that tests copy and read."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from short_runs import begin_short_run

from training.gates.gate import gate
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.steps.calibrate import calibrate
from training.steps.evaluate import evaluate
from training.steps.export import export
from training.steps.golden import write_golden
from training.steps.train import train


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans are cached in a temporary directory; child processes inherit it."""
    directory = tmp_path_factory.mktemp("cache")
    pytest.MonkeyPatch().setenv("XDG_CACHE_HOME", str(directory))
    return directory


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Random numbers of a test depend neither on other tests nor on the order."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of three epochs, exported and with golden images. Do not write into it."""
    run = begin_short_run(tmp_path_factory.mktemp("runs"), "epochs=3")
    data = open_run_data(run)
    train(run, data)
    evaluate(run, data)
    calibrate(run, data)
    export(run)
    write_golden(run, data)
    return run


@pytest.fixture(scope="session")
def finished_data(finished_run: Run) -> RunData:
    """The data of the finished run."""
    return open_run_data(finished_run)


@pytest.fixture(scope="session")
def gated_run(
    finished_run: Run, finished_data: RunData, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A copy of the finished run with its gates done, without waivers. Do not write into it."""
    path = tmp_path_factory.mktemp("gated") / finished_run.run_id
    run = Run.open(Path(shutil.copytree(finished_run.path, path)))
    gate(run, finished_data)
    return run


@pytest.fixture
def run_copy(finished_run: Run, tmp_path: Path) -> Run:
    """A copy of the finished run that the test may change."""
    return Run.open(Path(shutil.copytree(finished_run.path, tmp_path / finished_run.run_id)))


@pytest.fixture
def gated_copy(gated_run: Run, tmp_path: Path) -> Run:
    """A copy of the gated run that the test may change."""
    return Run.open(Path(shutil.copytree(gated_run.path, tmp_path / gated_run.run_id)))


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Run]:
    """Returns a function that starts a run from changes of the recipe and fields of the request."""

    def make(*changes: str, **values: object) -> Run:
        return begin_short_run(tmp_path / "runs", *changes, **values)

    return make
