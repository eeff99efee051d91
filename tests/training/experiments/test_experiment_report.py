"""A report: one page, one Markdown, and each figure and table as a file of its own."""

import csv
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from html_page import Page

from training.experiments.experiment_report import (
    Report,
    ReportColumn,
    ReportFigure,
    ReportSection,
    Table,
    Verdict,
    drawn,
    write_experiment_report,
)
from training.reports.figures import Line, draw_lines

HOSTILE = "a <b> & | 'c'"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A report of a name, a figure and a table that try to break it."""
    drawing = drawn(
        draw_lines("curve", [Line(HOSTILE, [1, 2, 3], [0.1, None, 0.3], 0, dashed=True)], y="error")
    )
    columns = (
        ReportColumn("network"),
        ReportColumn("error", "percent"),
        ReportColumn("weights", "whole"),
    )
    table = Table(
        "errors", "what came out", columns, [(HOSTILE, 0.12345, 269722), ("none", None, None)]
    )
    report = Report(
        name="example",
        title="An example",
        claim="Something holds.",
        sources=("somebody 2015",),
        verdicts=[
            Verdict(shown, text)
            for shown, text in (
                (True, "It does."),
                (False, "It does not."),
                (None, "Nobody knows."),
            )
        ],
        parts=[
            ReportSection(
                "A part", ["Text."], [ReportFigure("curve", "A curve", drawing)], [table], [table]
            )
        ],
        setting={"data": HOSTILE},
        commands=["python -m training experiment example"],
    )
    return write_experiment_report(report, tmp_path).parent


def test_the_page_holds_everything_and_loads_nothing(folder: Path) -> None:
    """No script, no address, no file beside it; the hostile name is text."""
    page = (folder / "index.html").read_bytes()
    names = {name for name, _ in Page(page).elements}
    assert {"svg", "table"} <= names
    assert {"script", "link", "img", "b>"}.isdisjoint(names)
    assert b"://" not in page.replace(b"http://www.w3.org", b"")
    assert b"a &lt;b&gt; &amp; | &#39;c&#39;" in page
    assert b"12.35%" in page or b"12.34%" in page
    for word in (b"Shown.", b"Not shown.", b"Can not be told."):
        assert word in page


def test_markdown_names_the_files_that_are_there(folder: Path) -> None:
    """Every link leads somewhere, and a bar in a name does not end its cell."""
    text = (folder / "report.md").read_text()
    assert "- **can not be told**: Nobody knows." in text
    for name in ("figures/curve.svg", "tables/errors.csv"):
        assert f"({name})" in text
        assert (folder / name).exists()
    row = next(line for line in text.splitlines() if line.startswith("| a <b>"))
    assert row.replace("\\|", "").count("|") == 4


def test_a_table_s_file_holds_the_values_as_they_are(folder: Path) -> None:
    """Not rounded; what is not known is empty."""
    with open(folder / "tables" / "errors.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["network", "error", "weights"],
            [HOSTILE, "0.12345", "269722"],
            ["none", "", ""],
        ]


def test_a_figure_s_file_is_svg_with_its_own_colours(folder: Path) -> None:
    """It is XML, and every colour that it uses is defined in it."""
    text = (folder / "figures" / "curve.svg").read_text()
    root = ET.fromstring(text)  # noqa: S314  our own file
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "--series-1:" in text
    assert "var(--series-1)" in text
