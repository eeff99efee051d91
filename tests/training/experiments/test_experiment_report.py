"""A report: a page, a Markdown file, and a file for each figure and table."""

import csv
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from html_page import Page

from training.experiments.experiment_report import (
    ExperimentReport,
    ReportColumn,
    ReportSection,
    ReportTable,
    Verdict,
    draw_line_figure,
    write_experiment_report,
)
from training.reports.figures import Line

HOSTILE = "a <b> & | 'c'"


def example(name: str = "example") -> ExperimentReport:
    """A report whose names are not safe in HTML and Markdown."""
    lines = [Line(HOSTILE, [1, 2, 3], [0.1, None, 0.3], 0, dashed=True)]
    figure = draw_line_figure("curve", "A curve", lines, y="error")
    columns = (
        ReportColumn("network"),
        ReportColumn("error", "percent"),
        ReportColumn("weights", "whole"),
    )
    rows = [(HOSTILE, 0.12345, 269722), ("none", None, None)]
    table = ReportTable("errors", "the results", columns, rows)
    return ExperimentReport(
        name=name,
        title="An example",
        claim="Something holds.",
        sources=("somebody 2015",),
        verdicts=[Verdict(True, "Yes."), Verdict(False, "No."), Verdict(None, "Perhaps.")],
        sections=[ReportSection("A section", ["Text."], [figure], [table], [table])],
        run_description={"data": HOSTILE},
        commands=["python -m training experiment example", "python -m training runs"],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_experiment_report(example(), tmp_path).parent


def test_the_page_is_self_contained_and_escapes_names(folder: Path) -> None:
    page = (folder / "index.html").read_bytes()
    names = {name for name, _ in Page(page).elements}
    assert {"svg", "table"} <= names
    assert {"script", "link", "img", "b>"}.isdisjoint(names)
    assert b"://" not in page.replace(b"http://www.w3.org", b"")
    assert b"a &lt;b&gt; &amp; | &#39;c&#39;" in page
    assert b"12.35%" in page or b"12.34%" in page
    assert b"269,722" in page
    assert b"experiment example\npython -m training runs\n</pre>" in page


def test_the_page_marks_each_verdict(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    for style, verdict in zip(("good", "bad", "quiet"), example().verdicts, strict=True):
        assert f'<b class="{style}">{verdict.word.capitalize()}.</b> {verdict.text}' in page


def test_links_on_the_page_lead_to_its_sections(folder: Path) -> None:
    page = Page((folder / "index.html").read_bytes())
    assert {link.removeprefix("#") for link in page.attributes("href")} <= set(
        page.attributes("id")
    )


def test_markdown_links_to_files_that_exist(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    for verdict in example().verdicts:
        assert f"- **{verdict.word}**: {verdict.text}" in text
    for name in ("figures/curve.svg", "tables/errors.csv"):
        assert f"({name})" in text
        assert (folder / name).exists()
    row = next(line for line in text.splitlines() if line.startswith("| a <b>"))
    assert row.replace("\\|", "").count("|") == 4


def test_csv_files_hold_unrounded_values(folder: Path) -> None:
    with open(folder / "tables" / "errors.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["network", "error", "weights"],
            [HOSTILE, "0.12345", "269722"],
            ["none", "", ""],
        ]


def test_figure_files_are_svg_with_their_own_colours(folder: Path) -> None:
    text = (folder / "figures" / "curve.svg").read_text()
    root = ET.fromstring(text)  # noqa: S314  our own file
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "--series-1:" in text
    assert "var(--series-1)" in text


def test_files_of_an_older_report_are_removed(folder: Path) -> None:
    (folder / "figures" / "old.svg").write_text("old")
    (folder / "tables" / "old.csv").write_text("old")
    write_experiment_report(example(), folder.parent)
    assert [path.name for path in (folder / "figures").iterdir()] == ["curve.svg"]
    assert [path.name for path in (folder / "tables").iterdir()] == ["errors.csv"]


def test_a_figure_without_points_is_an_error() -> None:
    with pytest.raises(ValueError, match="curve"):
        draw_line_figure("curve", "A curve", [Line("empty", [1], [None], 0)])
