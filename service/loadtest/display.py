"""What a person sees of a measurement: a live bar on a terminal, then a table. Needs the extra `tune`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from service.loadtest.engine import EngineMeasurement
from service.loadtest.load import Samples
from service.loadtest.load_report import Latency, LoadReport, report_on
from service.loadtest.search import Curve

RECENT: Final = 1000


class LoadtestDisplay:
    """One bar and lines; on what is no terminal lines alone."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None

    @contextmanager
    def progress(self, what: str, total: float) -> Iterator[None]:
        """A bar for as long as this is entered."""
        self._task = self._bar.add_task(what, total=total, figures="")
        with self._bar:
            yield
        self._bar.remove_task(self._task)

    def advance(self, completed: float, figures: str, what: str | None = None) -> None:
        """Show where it stands."""
        if self._task is not None:
            self._bar.update(self._task, completed=completed, figures=figures, description=what)

    def say(self, text: str, style: str = "") -> None:
        """Print a line as it is: no markup, no wrapping, so that what it holds can be copied."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def show(self, table: Table) -> None:
        """Print a table."""
        self.console.print(table)


def load_figures(samples: Samples, seconds: float) -> str:
    """The figures beside the bar of a load that has run for so many seconds since its warm-up."""
    if seconds <= 0:
        return "warming up"
    recent = samples[-RECENT:]
    report = report_on(recent, seconds)
    median = f"p50 {report.latency.percentiles['p50']:.1f} ms" if report.latency else "no answers"
    failed = sum(report.errors.values())
    errors = f"  {failed / report.requests:.0%} errors" if failed else ""
    return f"{len(samples):,} requests  {median}{errors}"


def load_table(report: LoadReport, title: str) -> Table:
    """Counts, rates, latencies and errors of a load."""
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
    for what, latency in (("latency", report.latency), ("refusals", report.refused)):
        if latency:
            table.add_section()
            for name, value in _named(latency):
                table.add_row(f"{what} {name}", f"{value:,.2f}", "ms")
    if report.errors:
        table.add_section()
        for kind, count in report.errors.items():
            table.add_row(Text("error", "red"), f"{count:,}", Text(kind))
    return table


def tuning_table(
    curves: Sequence[Curve], chosen: EngineMeasurement | None, p99_ms: float | None
) -> Table:
    """Every setting that was measured; the chosen one is marked, and what misses the wished p99 is red."""
    figures = [
        Column(name, justify="right")
        for name in ("inst.", "threads", "batch", "images/s", "p50 ms", "p99 ms")
    ]
    caption = "under full load, a batch waiting for each that runs; `alone`: one client"
    table = Table("precision", *figures, "", title="settings", caption=caption)
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


def _named(latency: Latency) -> Sequence[tuple[str, float]]:
    return [("mean", latency.mean), *latency.percentiles.items(), ("max", latency.max)]
