"""Terminal output of `bench` and `tune`: progress bar, lines, tables. Needs the extra `tune`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from service.loadtest.engine_measurement import EngineMeasurement
from service.loadtest.load_generator import Samples
from service.loadtest.load_report import Latency, LoadReport, make_report
from service.loadtest.settings_search import Curve

RECENT_SAMPLES: Final = 1000


class LoadtestTerminal:
    """A progress bar and lines; without a terminal only the lines are printed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None

    @contextmanager
    def progress(self, description: str, total: float) -> Iterator[None]:
        """Show a progress bar while the context is open."""
        self._task = self._bar.add_task(description, total=total, status="")
        with self._bar:
            yield
        self._bar.remove_task(self._task)

    def advance(self, completed: float, status: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=completed, status=status)

    def print(self, text: str, style: str = "") -> None:
        """Print a line without markup or wrapping, so that it can be copied."""
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def print_table(self, table: Table) -> None:
        self._console.print(table)


def load_status(samples: Samples, seconds: float) -> str:
    """The text beside the progress bar, `seconds` after the end of the warm-up."""
    if seconds <= 0:
        return "warming up"
    recent = samples[-RECENT_SAMPLES:]
    report = make_report(recent, seconds)
    median = f"p50 {report.latency.percentiles['p50']:.1f} ms" if report.latency else "no answers"
    failed = sum(report.errors.values())
    errors = f"  {failed / report.requests:.0%} errors" if failed else ""
    return f"{len(samples):,} requests  {median}{errors}"


def load_table(report: LoadReport, title: str) -> Table:
    table = Table(
        Column("", no_wrap=True),
        Column("", justify="right", no_wrap=True),
        "",
        title=title,
        show_header=False,
    )
    table.add_row("answered", f"{report.answered:,}", f"of {report.requests:,} requests")
    table.add_row(
        "images/s",
        f"{report.images_per_second:,.1f}",
        f"{report.images:,} answered within {report.duration_seconds:g} s",
    )
    for label, latency in (("latency", report.latency), ("rejections", report.refused)):
        if latency:
            table.add_section()
            for name, value in _latency_rows(latency):
                table.add_row(f"{label} {name}", f"{value:,.2f}", "ms")
    if report.errors:
        table.add_section()
        for kind, count in report.errors.items():
            table.add_row(Text("error", "red"), f"{count:,}", Text(kind))
    return table


def tuning_table(
    curves: Sequence[Curve], chosen: EngineMeasurement | None, p99_ms: float | None
) -> Table:
    """All measured settings; the chosen one is marked, a p99 over the goal is red."""
    columns = [
        Column(name, justify="right")
        for name in ("inst.", "threads", "batch", "images/s", "p50 ms", "p99 ms")
    ]
    caption = "full load: each instance has a full batch waiting; `alone`: one client"
    table = Table("precision", *columns, "", title="settings", caption=caption)
    for curve in curves:
        for point in curve.points:
            setting, p99 = point.setting, point.percentile_ms(99)
            missed = p99_ms is not None and p99 > p99_ms and not setting.alone
            table.add_row(
                setting.precision,
                str(setting.instances),
                str(setting.intra_op_num_threads),
                "alone" if setting.alone else str(setting.max_batch_size),
                f"{point.images_per_second:,.1f}",
                f"{point.percentile_ms(50):,.2f}",
                Text(f"{p99:,.2f}", "red" if missed else ""),
                Text("chosen", "bold green") if point is chosen else "",
            )
        table.add_section()
    return table


def _latency_rows(latency: Latency) -> Sequence[tuple[str, float]]:
    return [("mean", latency.mean), *latency.percentiles.items(), ("max", latency.max)]
