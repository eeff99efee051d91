"""What a person sees of a run: a live bar on a terminal, a line an epoch in a log, and tables."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table
from rich.text import Text

from model_store.manifest import Check
from training.data.check_table import check_table
from training.gates.vs_previous_version import PreviousComparison
from training.learning.rate_finder import RateCurve
from training.quantization.sensitivity import Sensitivity
from training.run.data import RunData
from training.run.tracking import Trackers
from training.steps.calibrate import RunCalibration
from training.steps.cross_validation import CrossValidation
from training.steps.train import Progress

SHOWN_LAYERS: Final = 24


class TrainingDisplay:
    """Shows progress while it is entered; call it with each report."""

    def __init__(self, console: Console, trackers: Trackers | None = None) -> None:
        self._console = console
        self._trackers = trackers
        self._bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __call__(self, progress: Progress, title: str = "training") -> None:
        """Show where the run stands."""
        if progress.notice:
            self.say(progress.notice)
        if progress.estimate:
            self.say(
                f"forecast: {timedelta(seconds=round(progress.estimate.seconds))} to go, done at "
                f"{time.strftime('%H:%M', time.localtime(time.time() + progress.estimate.seconds))}; "
                f"{progress.estimate.peak_bytes / 1e9:.1f} GB of memory at most so far"
            )
        total = progress.total_steps
        accuracy = "" if progress.accuracy is None else f"  accuracy {progress.accuracy:6.2%}"
        figures = f"loss {progress.loss:.4f}{accuracy}  {progress.images_per_second:5.0f} images/s"
        described = f"{title}: epoch {progress.epoch}/{progress.epochs}"
        stepped = f"{described} step {progress.step}/{progress.steps}"
        if self._task is None:
            self._task = self._bar.add_task(stepped, total=total, figures=figures)
        self._bar.update(
            self._task, completed=progress.run_step, description=stepped, figures=figures
        )
        if progress.metrics:
            self._track(progress.metrics)
            validation = f"validation {progress.metrics['validation_top1']:6.2%}, loss {progress.metrics['validation_loss']:.4f}"
            left = timedelta(seconds=round(progress.seconds_left))
            self.say(f"{described:28}  {figures}  {validation}  {left} left")
        if progress.run_step == total and progress.metrics:
            self._bar.remove_task(self._task)
            self._task = None

    def _track(self, metrics: dict[str, Any]) -> None:
        if self._trackers is not None:
            figures = {
                name: float(value)
                for name, value in metrics.items()
                if value is not None and name != "epoch"
            }
            self._trackers.log(metrics["epoch"], figures)

    def announce(self, step: str) -> None:
        """Say which step begins."""
        self._console.print(f"[bold]{step}[/bold]")

    def count(self, what: str) -> Callable[[int, int], None]:
        """A bar for work on so many images; it is gone when the last is done."""
        task: TaskID | None = None

        def advance(done: int, of: int) -> None:
            nonlocal task
            if task is None and done < of:
                task = self._bar.add_task(what, total=of, figures="")
            if task is not None:
                self._bar.update(task, completed=done, total=of, figures=f"{done:,} of {of:,}")
                if done >= of:
                    self._bar.remove_task(task)
                    task = None

        return advance

    def show_data(self, data: RunData) -> None:
        """Show what was found in the data, what was left out, and how it was split."""
        self._console.print(check_table(data.findings))
        sizes = ", ".join(f"{len(indices):,} {name}" for name, indices in vars(data.split).items())
        if len(data.learned) > len(data.split.train):
            sizes += ", trained on train and validation"
        self.say(
            f"{len(data.images.class_names)} classes; {sizes}; {len(data.left_out):,} left out (check.json lists them)"
        )

    def show_checks(self, checks: tuple[Check, ...]) -> None:
        """Show the gates' table."""
        self._console.print(checks_table(checks))

    def show_calibration(self, calibrated: RunCalibration) -> None:
        """Show what the calibration does, and what was left out of it."""
        if calibrated.calibration:
            self._console.print(calibration_table(calibrated))
        for notice in calibrated.notices:
            self.say(notice)

    def show_succession(self, succession: PreviousComparison) -> None:
        """Show what a retrained model gained and lost."""
        self._console.print(succession_table(succession))

    def show_cross_validation(self, result: CrossValidation) -> None:
        """Show accuracy by fold, the mean and the interval."""
        self._console.print(cross_validation_table(result))

    def show(self, table: Table) -> None:
        """Show a table that only one command has."""
        self._console.print(table)

    def say(self, text: str) -> None:
        """Print a line as it is: no markup, no wrapping, so that what it holds can be copied."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if self._trackers is not None:
            self._trackers.close(finished=kind is None)


def checks_table(checks: tuple[Check, ...]) -> Table:
    """Every check with what was expected and what was found; what a check is, where it did not pass."""
    table = Table(
        *(Column(name, no_wrap=True) for name in ("check", "expected", "found")),
        "verdict",
        title="gates",
    )
    for check in checks:
        verdict = (
            Text("passed", "green") if check.passed else Text(f"FAILED: {check.detail}", "bold red")
        )
        if check.waived:
            verdict = Text(f"waived: {check.waived}", "yellow")
        bound = f"{'≥' if check.comparison == 'at_least' else '≤'} {check.threshold:.4g}"
        table.add_row(check.check, bound, f"{check.value:.4g}", verdict)
    return table


def calibration_table(calibrated: RunCalibration) -> Table:
    """What the calibration does on the images it was fitted on, and on the test split."""
    splits = {"validation": calibrated.validation, "test": calibrated.test}
    measured = [figures for figures in splits.values() if figures]
    temperature = (
        f", temperature {calibrated.calibration.temperature:.3f}" if calibrated.calibration else ""
    )
    table = Table("", *splits, title=f"calibration{temperature}")
    table.add_row("images", *(f"{figures.images:,}" for figures in measured))
    table.add_row(
        "calibration error",
        *(f"{figures.ece_before:.2%} → {figures.ece_after:.2%}" for figures in measured),
    )
    table.add_row(
        "abstained",
        *("never" if each.abstained is None else f"{each.abstained:.2%}" for each in measured),
    )
    for coverage in measured[-1].sets:
        sets = [figures.sets[coverage] for figures in measured]
        table.add_row(
            f"sets for {coverage}",
            *(f"{each.coverage:.2%} ({each.mean_size:.2f} labels)" for each in sets),
        )
    return table


def sensitivity_table(sensitivities: Sequence[Sensitivity], kept: Sequence[str]) -> Table:
    """The layers that drift most when each alone is quantised, and which of them stay in fp32."""
    table = Table(
        "layer",
        Column("alone in INT8", justify="right"),
        "",
        title="sensitivity",
        caption="rms of the logits' change in standard deviations of fp32's",
    )
    shown = (
        sensitivities
        if len(sensitivities) <= SHOWN_LAYERS
        else sensitivities[: max(SHOWN_LAYERS, len(kept))]
    )
    for line in shown:
        table.add_row(
            Text(line.layer),
            f"{line.drift:.4f}",
            Text("stays in fp32", "yellow") if line.layer in kept else "",
        )
    if hidden := len(sensitivities) - len(shown):
        table.add_row(f"and {hidden} more", f"≤ {shown[-1].drift:.4f}")
    return table


def cross_validation_table(result: CrossValidation) -> Table:
    """Accuracy by fold, the mean and the interval."""
    table = Table("fold", "test accuracy", title="cross-validation")
    for number, accuracy in enumerate(result.folds, start=1):
        table.add_row(str(number), f"{accuracy:.2%}")
    low, high = result.interval
    table.add_row("mean", f"{result.mean:.2%}")
    table.add_row(
        "all images",
        f"{result.correct} of {result.images}; 95 % Wilson interval {low:.2%} to {high:.2%}",
    )
    return table


def rate_table(curve: RateCurve) -> Table:
    """The loss at rates that rise, as a bar each: where it is lowest, and where it runs away."""
    table = Table("learning rate", "loss", "", title="learning-rate finder")
    rows = range(0, len(curve.rates), max(1, len(curve.rates) // 24))
    highest = max(curve.losses)
    for row in rows:
        table.add_row(
            f"{curve.rates[row]:.2g}",
            f"{curve.losses[row]:.3f}",
            "█" * round(40 * curve.losses[row] / highest),
        )
    return table


def succession_table(succession: PreviousComparison) -> Table:
    """Old and new model on the same test images, class by class; where the new one has more classes, also among the old ones."""
    grown = succession.grown
    names = (
        "test images",
        "old model",
        "new model",
        *(["of the old classes"] if grown else []),
        "change",
    )
    caption = (
        f"{succession.gained} images gained, {succession.lost} lost{' among the old classes' if grown else ''}; "
        f"chance of this if it were no worse: {succession.p_worse:.3g}"
    )
    columns = [Column(name, justify="right") for name in names]
    table = Table("class", *columns, title="what retraining changed", caption=caption)
    for line in succession.classes:
        if not line.images:
            continue
        new = f"{line.new_right / line.images:.1%}"
        if line.old_right is None or line.like_old is None:
            table.add_row(Text(line.name), str(line.images), "new", new)
            continue
        change = (line.like_old - line.old_right) / line.images
        style = "green" if change > 0 else "red" if change < 0 else ""
        like_old = [f"{line.like_old / line.images:.1%}"] if grown else []
        old = f"{line.old_right / line.images:.1%}"
        table.add_row(
            Text(line.name), str(line.images), old, new, *like_old, Text(f"{change:+.1%}", style)
        )
    return table
