"""Short real runs for tests."""

from pathlib import Path

from model_store.store import ModelStore
from training.run.data import open_run_data
from training.run.directory import Run
from training.run.request import RunRequest, start_run
from training.steps.publish import Published, publish

SHORT = ("epochs=2", "accuracy_floor=0.3")


def begin_short_run(runs: Path, *changes: str, **values: object) -> Run:
    """Start a run of ResNet-20 on the digits for two epochs.

    `changes` override the recipe and `values` the request.
    """
    request = {"data": ("digits",), "architecture": "resnet20", "changes": (*SHORT, *changes)}
    run, _ = start_run(RunRequest(**(request | values)), runs, ModelStore(runs / "no store"))
    return run


def publish_as_passed(run: Run, store: ModelStore, **options: bool) -> Published:
    """Publish a gated run as if all of its checks had passed."""
    results = run.read_json("gates.json", "gate")
    checks = [{**check, "passed": True} for check in results["checks"]]
    run.write_json("gates.json", {**results, "checks": checks})
    return publish(run, open_run_data(run), store, **options)
