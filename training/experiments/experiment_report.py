"""An experiment's report: claim, verdict, figures and tables, written as a page, as Markdown, and as the files in both.

::

    OUT/NAME/
      index.html          all of it in one file
      report.md           the same for a reader of Markdown
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
from training.reports.figures import standalone
from training.reports.pages import MISSING, fill, percent

CellValue = str | float | int | None


@dataclass(frozen=True)
class ReportFigure:
    """A drawing. `name` is its file's, its caption says what is to be seen."""

    name: str
    caption: str
    drawing: Markup


@dataclass(frozen=True)
class ReportColumn:
    """A column of a table; how its values are shown is a name of FORMATS. The CSV holds them as they are."""

    title: str
    kind: str = "text"

    @property
    def is_number(self) -> bool:
        """Whether the values stand to the right."""
        return self.kind != "text"

    def show(self, value: CellValue) -> str:
        """A value for people."""
        return MISSING if value is None else FORMATS[self.kind](value)


FORMATS: Final[Mapping[str, Callable[[Any], str]]] = {
    "text": str,
    "percent": percent,
    "points": lambda value: f"{100 * value:+.2f}",
    "whole": lambda value: f"{value:,d}",
    "decimals": lambda value: f"{value:.4f}",
    "scientific": lambda value: f"{value:.3g}",
}


@dataclass(frozen=True)
class Table:
    """Numbers. `name` is its file's."""

    name: str
    caption: str
    columns: Sequence[ReportColumn]
    rows: Sequence[Sequence[CellValue]]

    @property
    def shown(self) -> list[list[str]]:
        """The rows for people."""
        return [
            [column.show(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]


@dataclass(frozen=True)
class ReportSection:
    """A piece of the argument: what was done, and what came out."""

    heading: str
    text: Sequence[str]
    figures: Sequence[ReportFigure] = ()
    tables: Sequence[Table] = ()
    files: Sequence[Table] = ()
    """Tables that are too long to be shown: points of curves."""


@dataclass(frozen=True)
class Verdict:
    """A sentence that the figures made. `shown` says whether they bear the claim out; None where they can not tell."""

    shown: bool | None
    text: str

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        return {True: "shown", False: "not shown", None: "can not be told"}[self.shown]


@dataclass(frozen=True)
class Report:
    """A whole experiment. `claim` is what the theory says, `sources` where; `setting` how it was run, by name."""

    name: str
    title: str
    claim: str
    sources: Sequence[str]
    verdicts: Sequence[Verdict]
    parts: Sequence[ReportSection]
    setting: Mapping[str, str]
    commands: Sequence[str]
    """What to type: to run it again, and to serve what it trained."""


def write_experiment_report(report: Report, out: Path) -> Path:
    """Write all of it under OUT/NAME; the page's path."""
    folder = out / report.name
    for subfolder in ("figures", "tables"):
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
        for stale in (folder / subfolder).iterdir():
            stale.unlink()
    for part in report.parts:
        for figure in part.figures:
            (folder / "figures" / f"{figure.name}.svg").write_bytes(standalone(figure.drawing))
        for table in (*part.tables, *part.files):
            (folder / "tables" / f"{table.name}.csv").write_text(_csv(table), encoding="utf-8")
    (folder / "report.md").write_text(_markdown(report), encoding="utf-8")
    page = folder / "index.html"
    page.write_bytes(fill("experiment.html.j2", report=report))
    return page


def drawn(drawing: Markup | None) -> Markup:
    """A drawing that is there: experiments draw nothing that could be empty."""
    if drawing is None:
        raise ValueError("there is nothing to draw")
    return drawing


def _csv(table: Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(column.title for column in table.columns)
    writer.writerows(table.rows)
    return buffer.getvalue()


def _markdown(report: Report) -> str:
    lines = [
        f"# {report.title}",
        "",
        f"**Claim.** {report.claim} ({'; '.join(report.sources)})",
        "",
    ]
    lines += [f"- **{verdict.word}**: {verdict.text}" for verdict in report.verdicts]
    for part in report.parts:
        lines += ["", f"## {part.heading}"]
        for paragraph in part.text:
            lines += ["", paragraph]
        for figure in part.figures:
            lines += [
                "",
                f"![{figure.caption}](figures/{figure.name}.svg)",
                "",
                f"*{figure.caption}*",
            ]
        for table in part.tables:
            lines += [
                "",
                *_markdown_table(table),
                "",
                f"{table.caption} ([CSV](tables/{table.name}.csv))",
            ]
        if part.files:
            lines += [
                "",
                "Numbers: "
                + ", ".join(f"[{table.caption}](tables/{table.name}.csv)" for table in part.files),
            ]
    lines += [
        "",
        "## How it was run",
        "",
        *(f"- {name}: {value}" for name, value in report.setting.items()),
    ]
    lines += ["", "```sh", *report.commands, "```", ""]
    return "\n".join(escape_unprintable(line) for line in lines)


def _markdown_table(table: Table) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---:" if column.is_number else "---" for column in table.columns]
    return [
        row([column.title for column in table.columns]),
        row(rule),
        *(row(cells) for cells in table.shown),
    ]
