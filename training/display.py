"""The terminal display of training: a live bar on a terminal, one line per epoch in a log."""

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from model_store.command_line import format_command, wrap_text
from model_store.manifest import Check
from training.data.check_table import FINDING_EXAMPLES, check_table, describe_data
from training.data.findings import DataFindings
from training.gates.vs_previous_version import PreviousComparison
from training.run.data import RunData
from training.run.tracking import Trackers
from training.steps.calibrate import RunCalibration
from training.steps.cross_validation import CrossValidation
from training.steps.density import FittedDensity
from training.steps.progress import Progress
from training.tables import (
    calibration_table,
    checks_table,
    cross_validation_table,
    previous_comparison_table,
)


class TrainingDisplay:
    """Shows progress and sends metrics to trackers.

    Use it as a context manager, and call it with the `Progress` after each training step.

    Args:
        console: Where to print.
        trackers: Where the metrics of each epoch go; None for nowhere.
    """

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

    def __call__(self, progress: Progress, title: str = "") -> None:
        if progress.notice:
            self.say(progress.notice)
        if progress.estimate:
            seconds = progress.estimate.seconds
            end = time.strftime("%H:%M", time.localtime(time.time() + seconds))
            gigabytes = progress.estimate.peak_bytes / 1e9
            self.say(
                f"estimate: {timedelta(seconds=round(seconds))} left, done at {end}; "
                f"{progress.images_per_second:.0f} images/s, peak memory {gigabytes:.1f} GB"
            )
        accuracy = "" if progress.accuracy is None else f"  accuracy {progress.accuracy:6.2%}"
        speed = f"{progress.images_per_second:5.0f} images/s"
        figures = f"loss {progress.loss:.4f}{accuracy}  {speed}"
        epoch = f"{title} epoch {progress.epoch}/{progress.epochs}".lstrip()
        step = f"{epoch} step {progress.step}/{progress.steps}"
        if self._task is None:
            self._task = self._bar.add_task(step, total=progress.total_steps, figures=figures)
        self._bar.update(self._task, completed=progress.run_step, description=step, figures=figures)
        if progress.metrics:
            self._track(progress.metrics)
            top1 = progress.metrics["validation_top1"]
            left = timedelta(seconds=round(progress.seconds_left))
            validation = f"validation {top1:6.2%}"
            self.say(f"{epoch}  loss {progress.loss:.4f}{accuracy}  {validation}  {left} left")
            if progress.run_step == progress.total_steps:
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
        self._console.print(f"[bold]{step}[/bold]")

    def count(self, what: str) -> Callable[[int, int], None]:
        """Return a function (done, total) that shows a bar until all images are done."""
        task: TaskID | None = None

        def advance(done: int, total: int) -> None:
            nonlocal task
            if task is None and done < total:
                task = self._bar.add_task(what, total=total, figures="")
            if task is not None:
                figures = f"{done:,} of {total:,}"
                self._bar.update(task, completed=done, total=total, figures=figures)
                if done >= total:
                    self._bar.remove_task(task)
                    task = None

        return advance

    def show_findings(self, findings: DataFindings, limit: int | None) -> None:
        """Show what was found, with at most `limit` examples each; None shows every example."""
        if findings.findings:
            self._console.print(check_table(findings, limit))
        else:
            self.say(f"{describe_data(findings)}; nothing found")

    def show_data(self, data: RunData) -> None:
        self.show_findings(data.findings, FINDING_EXAMPLES)
        sizes = ", ".join(f"{len(indices):,} {name}" for name, indices in vars(data.split).items())
        if data.train_on_validation:
            sizes += ", trained on train and validation"
        self.say(
            f"{len(data.images.class_names)} classes; {sizes}; "
            f"{len(data.left_out):,} excluded (listed in check.json)"
        )

    def show_checks(self, checks: tuple[Check, ...], notices: Iterable[str] = ()) -> None:
        self._console.print(checks_table(checks))
        for notice in notices:
            self.say(notice)

    def show_calibration(self, calibrated: RunCalibration) -> None:
        if calibrated.calibration:
            self._console.print(calibration_table(calibrated))
        for notice in calibrated.notices:
            self.say(notice)

    def show_density(self, fitted: FittedDensity) -> None:
        if fitted.notice:
            self.say(fitted.notice)
        elif fitted.check:
            self.say(f"abstains by the density on {fitted.check.value:.2%} of the test images")

    def show_previous_comparison(self, comparison: PreviousComparison) -> None:
        self._console.print(previous_comparison_table(comparison))

    def show_cross_validation(self, result: CrossValidation) -> None:
        self._console.print(cross_validation_table(result))

    def show(self, table: Table) -> None:
        self._console.print(table)

    def say(self, text: str) -> None:
        """Print text, wrapped at spaces to the width of the console."""
        self._print(wrap_text(text, self._console.width))

    def say_command(self, title: str, *words: str | Path) -> None:
        """Print `title: command` so that the command can be pasted into a shell."""
        self._print(format_command(title, words, self._console.width))

    def _print(self, text: str) -> None:
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
