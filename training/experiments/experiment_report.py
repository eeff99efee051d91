"""The report of an experiment: claim, verdicts, figures and tables.

::

    OUT/NAME/
      index.html          the report in one file
      report.md           the same report in Markdown
      figures/*.svg, tables/*.csv
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from training.data.image_set import escape_unprintable
from training.reports.figures import Line, draw_lines, standalone
from training.reports.pages import MISSING, format_percent, render_page

CellValue = str | float | int | None

CELL_FORMATS: Final[Mapping[str, Callable[[Any], str]]] = {
    "text": str,
    "percent": format_percent,
    "whole": lambda value: f"{value:,d}",
    "decimals": lambda value: f"{value:.4f}",
    "scientific": lambda value: f"{value:.3g}",
}


@dataclass(frozen=True)
class ReportFigure:
    """A drawing. `name` is the file name without its suffix."""

    name: str
    caption: str
    drawing: Markup


@dataclass(frozen=True)
class ReportColumn:
    """A table column. `kind` is a key of CELL_FORMATS; the CSV file holds unformatted values."""

    title: str
    kind: str = "text"

    @property
    def is_number(self) -> bool:
        return self.kind != "text"

    def format_cell(self, value: CellValue) -> str:
        return MISSING if value is None else CELL_FORMATS[self.kind](value)


@dataclass(frozen=True)
class ReportTable:
    """A table. `name` is the file name without its suffix."""

    name: str
    caption: str
    columns: Sequence[ReportColumn]
    rows: Sequence[Sequence[CellValue]]

    @property
    def formatted_rows(self) -> list[list[str]]:
        return [
            [column.format_cell(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]


@dataclass(frozen=True)
class ReportSection:
    heading: str
    paragraphs: Sequence[str]
    figures: Sequence[ReportFigure] = ()
    tables: Sequence[ReportTable] = ()
    csv_tables: Sequence[ReportTable] = ()
    """Tables that are too long for the page, such as the points of curves."""


@dataclass(frozen=True)
class Verdict:
    """One computed result. `shown` is None if the measurements do not decide the claim."""

    shown: bool | None
    text: str

    @property
    def word(self) -> str:
        return {True: "shown", False: "not shown", None: "undecided"}[self.shown]


@dataclass(frozen=True)
class ExperimentReport:
    """The whole report of one experiment.

    Attributes:
        claim: The claim of the theory; `sources` lists the papers.
        run_description: Facts about the runs by name, such as data, recipe and seeds.
        commands: Commands that repeat the experiment and serve its networks.
    """

    name: str
    title: str
    claim: str
    sources: Sequence[str]
    verdicts: Sequence[Verdict]
    sections: Sequence[ReportSection]
    run_description: Mapping[str, str]
    commands: Sequence[str]


def draw_line_figure(
    name: str, caption: str, lines: Sequence[Line], *, title: str | None = None, **options: Any
) -> ReportFigure:
    """A figure of `lines`. `title` is its name for screen readers; `options` go to `draw_lines`.

    Raises:
        ValueError: No line has a finite point.
    """
    drawing = draw_lines(title or name, lines, **options)
    if drawing is None:
        raise ValueError(f"figure {name} has no finite point")
    return ReportFigure(name, caption, drawing)


def write_experiment_report(report: ExperimentReport, out: Path) -> Path:
    """Write the report under OUT/NAME, replacing older figures and tables. Returns the page."""
    folder = out / report.name
    for subfolder in ("figures", "tables"):
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
        for stale in (folder / subfolder).iterdir():
            stale.unlink()
    for section in report.sections:
        for figure in section.figures:
            (folder / "figures" / f"{figure.name}.svg").write_bytes(standalone(figure.drawing))
        for table in (*section.tables, *section.csv_tables):
            (folder / "tables" / f"{table.name}.csv").write_text(_csv(table), encoding="utf-8")
    (folder / "report.md").write_text(_markdown(report), encoding="utf-8")
    page = folder / "index.html"
    page.write_bytes(render_page("experiment.html.j2", report=report))
    return page


def _csv(table: ReportTable) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(column.title for column in table.columns)
    writer.writerows(table.rows)
    return buffer.getvalue()


def _markdown(report: ExperimentReport) -> str:
    lines = [f"# {report.title}", ""]
    lines += [f"**Claim.** {report.claim} ({'; '.join(report.sources)})", ""]
    lines += [f"- **{verdict.word}**: {verdict.text}" for verdict in report.verdicts]
    for section in report.sections:
        lines += _markdown_section(section)
    lines += ["", "## How it was run", ""]
    lines += [f"- {name}: {value}" for name, value in report.run_description.items()]
    lines += ["", "```sh", *report.commands, "```", ""]
    return "\n".join(escape_unprintable(line) for line in lines)


def _markdown_section(section: ReportSection) -> list[str]:
    lines = ["", f"## {section.heading}"]
    for paragraph in section.paragraphs:
        lines += ["", paragraph]
    for figure in section.figures:
        lines += ["", f"![{figure.caption}](figures/{figure.name}.svg)", "", f"*{figure.caption}*"]
    for table in section.tables:
        lines += ["", *_markdown_table(table), ""]
        lines += [f"{table.caption} ([CSV](tables/{table.name}.csv))"]
    if section.csv_tables:
        links = [f"[{table.caption}](tables/{table.name}.csv)" for table in section.csv_tables]
        lines += ["", f"Numbers: {', '.join(links)}"]
    return lines


def _markdown_table(table: ReportTable) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---:" if column.is_number else "---" for column in table.columns]
    titles = [column.title for column in table.columns]
    return [row(titles), row(rule), *(row(cells) for cells in table.formatted_rows)]
