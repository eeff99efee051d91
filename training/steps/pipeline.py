"""The whole path of a run, each step skipped where its artefact is there already."""

from collections.abc import Callable, Mapping
from typing import Protocol

from model_store.manifest import Check
from model_store.store import ModelStore
from training.gates.gate import check_waivers, gate, require_passed
from training.gates.vs_previous_version import PreviousComparison, compare_with_previous
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.reports.run_report import write_run_report
from training.run.data import RunData, open_run_data
from training.run.directory import RunDirectory
from training.run.weights import LAST_WEIGHTS, PREVIOUS_WEIGHTS
from training.steps.calibrate import CALIBRATION_FILE, RunCalibration, calibrate
from training.steps.evaluate import evaluate
from training.steps.export import MODEL_FILE, export
from training.steps.golden import GOLDEN_FILE, take_golden
from training.steps.publish import Published, create_store, publish, require_promotable
from training.steps.train import Progress, train


class ProgressDisplay(Protocol):
    """What shows a person how a run goes."""

    def __call__(self, progress: Progress) -> None:
        """Training stands here."""

    def announce(self, step: str) -> None:
        """This step begins."""

    def count(self, what: str) -> Callable[[int, int], None]:
        """A counter (done, of how many) for work on images."""

    def show_data(self, data: RunData) -> None:
        """The data was checked and split like this."""

    def show_calibration(self, calibrated: RunCalibration) -> None:
        """How far the answers can be trusted."""

    def show_succession(self, succession: PreviousComparison) -> None:
        """A retrained model gained and lost this."""

    def show_checks(self, checks: tuple[Check, ...]) -> None:
        """The gates found this."""


def train_and_evaluate(
    run: RunDirectory,
    display: ProgressDisplay,
    process: DistributedProcess,
    interrupted: Callable[[], bool] = lambda: False,
) -> RunData:
    """Check the data, train, evaluate and calibrate: the part that several processes do together. Raises TrainingError."""
    display.announce("check")
    data = open_run_data(run, display.count("checking"), process)
    display.show_data(data)
    if not run.has(LAST_WEIGHTS):
        display.announce("train")
        train(run, data, display, process, interrupted)
    display.announce("evaluate")
    evaluate(run, data, process)
    if not run.has(CALIBRATION_FILE):
        display.announce("calibrate")
        display.show_calibration(calibrate(run, data, process))
    return data


def export_and_publish(
    run: RunDirectory,
    data: RunData,
    store: ModelStore,
    display: ProgressDisplay,
    waivers: Mapping[str, str],
    *,
    promote: bool,
) -> Published:
    """Export, gate and publish what was learned. Raises TrainingError, ModelStoreError."""
    if not run.has(MODEL_FILE):
        display.announce("export")
        export(run)
    if not run.has(GOLDEN_FILE):
        take_golden(run, data)
    if run.has(PREVIOUS_WEIGHTS):
        display.show_succession(compare_with_previous(run, data))
    display.announce("gate")
    checks = gate(run, data, waivers, store)
    display.show_checks(checks)
    write_run_report(run, data, display.count("report"))
    require_passed(checks)
    display.announce("publish")
    return publish(run, data, store, promote=promote)


def finish(
    run: RunDirectory,
    store: ModelStore,
    display: ProgressDisplay,
    waivers: Mapping[str, str],
    *,
    promote: bool,
    interrupted: Callable[[], bool] = lambda: False,
    process: DistributedProcess = SINGLE_PROCESS,
) -> Published | None:
    """Go from wherever the run stands to a published version; only the first of several processes publishes."""
    check_waivers(waivers)
    if not process.is_main:
        train_and_evaluate(run, display, process, interrupted)
        return None
    create_store(store)
    if not promote:
        require_promotable(store, run.config().model)
    with run.alone():
        data = train_and_evaluate(run, display, process, interrupted)
        return export_and_publish(run, data, store, display, waivers, promote=promote)
