"""All steps of a run in order. A step whose result exists is skipped, so a killed run resumes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from model_store.manifest import Check
from model_store.store import ModelStore
from model_store.version import MAX_REPORT_BYTES
from training.data.sources import ImageSet
from training.gates.gate import gate, read_notices, require_passed
from training.gates.vs_previous_version import PreviousComparison, read_previous_comparison
from training.gates.waivers import check_waivers
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.promotion import check_no_promote
from training.reports.run_report import write_run_report
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.run.weights import LAST_WEIGHTS, PREVIOUS_WEIGHTS
from training.steps.calibrate import CALIBRATION_FILE, RunCalibration, calibrate
from training.steps.density import DENSITY_RECORD, FittedDensity, fit_run_density
from training.steps.evaluate import evaluate
from training.steps.export import MODEL_FILE, export
from training.steps.golden import GOLDEN_FILE, write_golden
from training.steps.progress import Progress
from training.steps.publish import Published, publish, report_to_publish
from training.steps.train import train


class ProgressDisplay(Protocol):
    """Shows the progress of a run. Implemented by `training.display.TrainingDisplay`."""

    def __call__(self, progress: Progress) -> None:
        """Show a training step."""

    def announce(self, step: str) -> None:
        """Show that a step begins."""

    def say(self, text: str) -> None:
        """Show a sentence."""

    def count(self, what: str) -> Callable[[int, int], None]:
        """Return a counter (done, total) for work on images."""

    def show_data(self, data: RunData) -> None:
        """Show the findings about the data and its split."""

    def show_calibration(self, calibrated: RunCalibration) -> None:
        """Show the calibration."""

    def show_density(self, fitted: FittedDensity) -> None:
        """Show from how many test images the model abstains by the density."""

    def show_previous_comparison(self, comparison: PreviousComparison) -> None:
        """Show what retraining gained and lost."""

    def show_checks(self, checks: tuple[Check, ...], notices: Iterable[str] = ()) -> None:
        """Show the results of the gates."""


def finish_run(
    run: Run,
    store: ModelStore,
    display: ProgressDisplay,
    waivers: Mapping[str, str],
    *,
    promote: bool,
    interrupted: Callable[[], bool] = lambda: False,
    process: DistributedProcess = SINGLE_PROCESS,
    images: ImageSet | None = None,
) -> Published | None:
    """Do every step that is not done yet, from the data check to the published version.

    Args:
        run: The run, new or interrupted.
        store: Where to publish.
        display: Shows the progress.
        waivers: Reasons by the names of checks that may fail.
        promote: Whether `production` may move to the new version.
        interrupted: Asked after each training step; True stops after a checkpoint.
        process: This process of a distributed training. Only the first one publishes.
        images: The images of the run, if the caller has listed them already.

    Returns:
        The published version, or None in processes other than the first.

    Raises:
        TrainingError, ModelStoreError: A step failed.
    """
    check_waivers(waivers)
    if not process.is_main:
        train_and_evaluate(run, display, process, interrupted, images)
        return None
    store.create()
    if not promote:
        check_no_promote(store, run.config.model)
    with run.locked():
        data = train_and_evaluate(run, display, process, interrupted, images)
        return export_and_publish(run, data, store, display, waivers, promote=promote)


def train_and_evaluate(
    run: Run,
    display: ProgressDisplay,
    process: DistributedProcess,
    interrupted: Callable[[], bool] = lambda: False,
    images: ImageSet | None = None,
) -> RunData:
    """Check the data, train, evaluate and calibrate. All processes of a training do this part."""
    display.announce("check")
    data = open_run_data(run, display.count("checking"), process, images=images)
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
    run: Run,
    data: RunData,
    store: ModelStore,
    display: ProgressDisplay,
    waivers: Mapping[str, str],
    *,
    promote: bool,
) -> Published:
    """Export, gate, write the report and publish. Only the first process does this part."""
    if not run.has(MODEL_FILE):
        display.announce("export")
        export(run)
    if not run.has(GOLDEN_FILE):
        write_golden(run, data)
    if not run.has(DENSITY_RECORD):
        display.announce("density")
        display.show_density(fit_run_density(run, data))
    display.announce("gate")
    checks = gate(run, data, waivers, store)
    if run.has(PREVIOUS_WEIGHTS):
        display.show_previous_comparison(read_previous_comparison(run))
    display.show_checks(checks, read_notices(run))
    write_run_report(run, data, display.count("report"))
    require_passed(checks)
    if run.config.keep_report and report_to_publish(run) is None:
        limit = MAX_REPORT_BYTES // 2**20
        display.say(f"the report to publish is over {limit} MiB, so it is not published")
    display.announce("publish")
    return publish(run, data, store, promote=promote)
