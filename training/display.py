"""What a person sees of a run: a live bar on a terminal, a line an epoch in a log, and tables."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table
from rich.text import Text

from model_store.manifest import Check
from training.cross_validation import CrossValidation
from training.train import Progress


class TrainingDisplay:
    """Shows progress while it is entered; call it with each report."""

    def __init__(self, console: Console) -> None:
        self._console = console
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
        total = progress.epochs * progress.steps
        done = (progress.epoch - 1) * progress.steps + progress.step
        figures = f"loss {progress.loss:.4f}  accuracy {progress.accuracy:6.2%}  {progress.images_per_second:5.0f} images/s"
        described = f"{title}: epoch {progress.epoch}/{progress.epochs}"
        if self._task is None:
            self._task = self._bar.add_task(described, total=total, figures=figures)
        self._bar.update(self._task, completed=done, description=described, figures=figures)
        if progress.metrics:
            validation = f"validation {progress.metrics['validation_top1']:6.2%}, loss {progress.metrics['validation_loss']:.4f}"
            self.say(f"{described:28}  {figures}  {validation}")
        if done == total and progress.metrics:
            self._bar.remove_task(self._task)
            self._task = None

    def announce(self, step: str) -> None:
        """Say which step begins."""
        self._console.print(f"[bold]{step}[/bold]")

    def show_checks(self, checks: tuple[Check, ...]) -> None:
        """Show the gates' table."""
        self._console.print(checks_table(checks))

    def say(self, text: str) -> None:
        """Print a line as it is: no markup, no wrapping, so that what it holds can be copied."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()


def checks_table(checks: tuple[Check, ...]) -> Table:
    """Every check with what was expected and what was found; what a check is, where it did not pass."""
    table = Table(*(Column(name, no_wrap=True) for name in ("check", "expected", "found")), "verdict", title="gates")
    for check in checks:
        verdict = Text("passed", "green") if check.passed else Text(f"FAILED: {check.detail}", "bold red")
        if check.waived:
            verdict = Text(f"waived: {check.waived}", "yellow")
        bound = f"{'≥' if check.comparison == 'at_least' else '≤'} {check.threshold:.4g}"
        table.add_row(check.check, bound, f"{check.value:.4g}", verdict)
    return table


def cross_validation_table(result: CrossValidation) -> Table:
    """Accuracy by fold, the mean and the interval."""
    table = Table("fold", "test accuracy", title="cross-validation")
    for number, accuracy in enumerate(result.folds, start=1):
        table.add_row(str(number), f"{accuracy:.2%}")
    low, high = result.interval
    table.add_row("mean", f"{result.mean:.2%}")
    table.add_row("all images", f"{result.correct} of {result.images}; 95 % Wilson interval {low:.2%} to {high:.2%}")
    return table
