"""A short real run, made once, whose artefacts the tests copy and look into."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.store import ModelStore
from training.run.data import open_run_data
from training.run.directory import RunDirectory
from training.run.request import RunRequest, begin
from training.steps.calibrate import calibrate
from training.steps.evaluate import evaluate
from training.steps.export import export
from training.steps.golden import take_golden
from training.steps.train import train

SHORT = ("epochs=2", "accuracy_floor=0.3")


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans are cached here and not in the home of whoever runs the tests; child processes inherit it."""
    directory = tmp_path_factory.mktemp("cache")
    pytest.MonkeyPatch().setenv("XDG_CACHE_HOME", str(directory))
    return directory


def begin_short(runs: Path, *changes: str, **values: object) -> RunDirectory:
    """ResNet-20 on the digits for two epochs, unless changed."""
    wish = RunRequest(
        **{"data": ("digits",), "architecture": "resnet20", "changes": (*SHORT, *changes), **values}
    )  # type: ignore[arg-type]
    return begin(wish, runs, ModelStore(runs / "no store"))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that went as far as the golden images; nobody writes into it."""
    run = begin_short(tmp_path_factory.mktemp("runs"), "epochs=3")
    data = open_run_data(run)
    train(run, data)
    evaluate(run, data)
    calibrate(run, data)
    export(run)
    take_golden(run, data)
    return run


@pytest.fixture
def run_copy(finished_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """The finished run in a directory of the test's own."""
    return RunDirectory(Path(shutil.copytree(finished_run.path, tmp_path / finished_run.run_id)))


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """Makes a run that nothing has been done in; takes changes of the recipe and values of the wish."""

    def make(*changes: str, **values: object) -> RunDirectory:
        return begin_short(tmp_path / "runs", *changes, **values)

    return make
