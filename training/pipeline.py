"""The whole path of a run, each step skipped where its artefact is there already."""

from collections.abc import Mapping
from typing import Protocol

from model_store.manifest import Check
from model_store.store import ModelStore
from training.data import ImageSet, load_data, stratified_split
from training.errors import RunError
from training.evaluation import evaluate
from training.export import MODEL, export
from training.gates import check_waivers, gate, require_passed
from training.golden import GOLDEN, take_golden
from training.publish import Published, check_writable, publish
from training.run_directory import RunDirectory
from training.train import WEIGHTS, Progress, train


class Display(Protocol):
    """What shows a person how a run goes."""

    def __call__(self, progress: Progress) -> None:
        """Training stands here."""

    def announce(self, step: str) -> None:
        """This step begins."""

    def show_checks(self, checks: tuple[Check, ...]) -> None:
        """The gates found this."""


def load_run_data(run: RunDirectory) -> ImageSet:
    """The run's data, with its split fixed the first time. Raises DataError, and RunError where the data has changed since."""
    data = load_data(run.config().data)
    if not run.has("split.json"):
        run.write_split(stratified_split(data.labels), data.digest)
    if run.read_json("split.json", "resume").get("data_digest") != data.digest:
        raise RunError(f"{run.path} was begun with other data than {data.name} holds now; start a new run")
    return data


def finish(run: RunDirectory, store: ModelStore, display: Display, waivers: Mapping[str, str], *, promote: bool) -> Published:
    """Go from wherever the run stands to a published version. Raises TrainingError, ModelStoreError."""
    check_waivers(waivers)
    check_writable(store)
    with run.alone():
        data = load_run_data(run)
        if not run.has(WEIGHTS):
            display.announce("train")
            train(run, data, display)
        display.announce("evaluate")
        evaluate(run, data)
        if not run.has(MODEL):
            display.announce("export")
            export(run, data)
        if not run.has(GOLDEN):
            take_golden(run, data)
        display.announce("gate")
        checks = gate(run, data, waivers)
        display.show_checks(checks)
        require_passed(checks)
        display.announce("publish")
        return publish(run, data, store, promote=promote)
