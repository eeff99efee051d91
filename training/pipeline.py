"""The whole path of a run, each step skipped where its artefact is there already."""

from collections.abc import Callable, Mapping

from model_store.store import ModelStore
from training.data import ImageSet, load_data, stratified_split
from training.evaluation import evaluate
from training.export import MODEL, export
from training.gates import gate, require_passed
from training.golden import GOLDEN, take_golden
from training.publish import PUBLISHED, publish
from training.run_directory import RunDirectory
from training.train import WEIGHTS, Progress, train


def start(run: RunDirectory) -> ImageSet:
    """Load the run's data and fix its split, once. Raises DataError."""
    data = load_data(run.config().data)
    if not run.has("split.json"):
        run.write_split(stratified_split(data.labels))
    return data


def finish(
    run: RunDirectory,
    store: ModelStore,
    report: Callable[[Progress], None],
    announce: Callable[[str], None],
    waivers: Mapping[str, str],
    *,
    promote: bool,
) -> int:
    """Go from wherever the run stands to a published version and return it. Raises TrainingError, ModelStoreError."""
    data = start(run)
    if run.has(PUBLISHED):
        return int(run.read_json(PUBLISHED, "publish")["version"])
    if not run.has(WEIGHTS):
        announce("train")
        train(run, data, report)
    announce("evaluate")
    evaluate(run, data)
    if not run.has(MODEL):
        announce("export")
        export(run, data)
    if not run.has(GOLDEN):
        take_golden(run, data)
    announce("gate")
    checks = gate(run, data, waivers)
    require_passed(checks)
    announce("publish")
    return publish(run, data, store, promote=promote)
