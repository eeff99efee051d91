"""A short real run, made once, whose artefacts the tests copy and look into."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from training import pipeline
from training.evaluation import evaluate
from training.export import export
from training.golden import take_golden
from training.publish import describe_origin
from training.recipe import Recipe
from training.run_directory import Config, RunDirectory
from training.train import train


def short_config(epochs: int = 2, **changes: object) -> Config:
    """ResNet-20 on the digits for a few epochs."""
    values = Recipe.load("digits").model_dump()
    recipe = Recipe.model_validate({**values, "epochs": epochs, "accuracy_floor": 0.3, **changes})
    return Config(
        model="digits-resnet20",
        data="digits",
        architecture="resnet20",
        recipe_name="digits",
        recipe=recipe,
        seed=0,
        **describe_origin(),
    )


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that went as far as the golden images; nobody writes into it."""
    run = RunDirectory.create(tmp_path_factory.mktemp("runs"), short_config(epochs=3))
    data = pipeline.load_run_data(run)
    train(run, data)
    evaluate(run, data)
    export(run, data)
    take_golden(run, data)
    return run


@pytest.fixture
def run_copy(finished_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """The finished run in a directory of the test's own."""
    return RunDirectory(Path(shutil.copytree(finished_run.path, tmp_path / finished_run.run_id)))


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """Makes a run that nothing has been done in."""

    def make(**changes: object) -> RunDirectory:
        return RunDirectory.create(tmp_path / "runs", short_config(**changes))

    return make
