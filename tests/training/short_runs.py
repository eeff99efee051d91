"""Short real runs for tests."""

from pathlib import Path

from model_store.store import ModelStore
from training.run.directory import Run
from training.run.request import RunRequest, start_run

SHORT = ("epochs=2", "accuracy_floor=0.3")


def begin_short_run(runs: Path, *changes: str, **values: object) -> Run:
    """Start a run of ResNet-20 on the digits for two epochs.

    `changes` override the recipe and `values` the request.
    """
    request = {"data": ("digits",), "architecture": "resnet20", "changes": (*SHORT, *changes)}
    run, _ = start_run(RunRequest(**(request | values)), runs, ModelStore(runs / "no store"))  # type: ignore[arg-type]
    return run
