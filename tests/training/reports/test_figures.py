"""Figures are reproducible SVG in the colours of the page."""

import re

import pytest
from html_page import Page
from markupsafe import Markup

from training.reports.figures import (
    SERIES_COLOURS,
    Line,
    draw_lines,
    draw_reliability,
    draw_surfaces,
)
from training.reports.mistakes import ReliabilityBin


def path_points(drawing: str, colour: int) -> int:
    """Number of points of the curve with this colour."""
    curve, _in_the_legend = re.findall(
        rf'<path d="([^"]*)"[^>]*fill: none; stroke: var\(--series-{colour}\)', drawing
    )
    return len(re.findall("[ML]", curve))


def test_lines_without_points_give_no_drawing() -> None:
    nan, infinity = float("nan"), float("inf")
    assert draw_lines("none", []) is None
    assert (
        draw_lines(
            "none", [Line("empty", [], [], 0), Line("gaps", [1, 2, 3], [None, nan, infinity], 1)]
        )
        is None
    )


def test_points_without_a_value_are_left_out() -> None:
    """A line without points is not in the legend."""
    lines = [
        Line("full", [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4], 0),
        Line("gaps", [1, 2, 3, 4], [None, 0.2, float("nan"), 0.4], 1),
    ]
    drawing = draw_lines("curves", [*lines, Line("nothing", [1], [None], 2)])
    assert drawing is not None
    assert lines[1].points == [(2, 0.2), (4, 0.4)]
    assert path_points(drawing, 1) == 4
    assert path_points(drawing, 2) == 2
    assert "var(--series-3)" not in drawing
    assert "nothing" not in drawing


def test_a_drawing_is_reproducible_and_uses_the_colours_of_the_page() -> None:
    """Drawings with different names share no id."""
    lines = [Line('a <b> & "c"', range(20), [value / 20 for value in range(20)], 0)]
    drawing = draw_lines("first", lines, mark=(3, "epoch 3 kept"))
    assert drawing is not None
    assert drawing == draw_lines("first", lines, mark=(3, "epoch 3 kept"))
    other = draw_lines("second", lines)
    assert other is not None
    assert set(re.findall(r' id="([^"]+)"', drawing)).isdisjoint(
        re.findall(r' id="([^"]+)"', other)
    )
    assert "var(--series-1)" in drawing
    assert "var(--rule)" in drawing
    assert "currentColor" in drawing
    assert "#0102" not in drawing
    assert "epoch 3 kept" in drawing
    assert not re.search(r"<metadata>.*\d{4}-\d\d-\d\d", drawing)
    parsed = Page(f"<body>{drawing}</body>".encode())
    assert parsed.elements[1][0] == "svg"
    assert parsed.elements[1][1]["aria-label"] == 'first: a <b> & "c" by epoch'
    assert {"width", "height"}.isdisjoint(parsed.elements[1][1])


def test_more_lines_than_colours_are_dashed() -> None:
    drawing = draw_lines(
        "many",
        [Line("first", [1, 2], [1, 2], 0), Line("ninth", [1, 2], [2, 3], SERIES_COLOURS)],
        legend=False,
    )
    assert drawing is not None
    assert "stroke-dasharray" in drawing
    single = draw_lines("one", [Line("first", [1, 2], [1, 2], 0)], legend=False)
    assert single is not None
    assert "stroke-dasharray" not in single


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [([1, 1000], True), ([1, 2], False), ([0, 1000], False), ([-1, 1000], False)],
)
def test_an_axis_is_logarithmic_if_positive_values_are_far_apart(
    values: list[float], *, logarithmic: bool
) -> None:
    line = Line("loss", [1, 2], values, 0)
    on_request, plain = (
        draw_lines("loss", [line], logarithmic=allowed, legend=False) for allowed in (True, False)
    )
    assert (on_request != plain) is logarithmic


def test_a_reliability_diagram_has_a_bar_for_each_bin() -> None:
    drawing = draw_reliability(
        "calibration",
        [ReliabilityBin(0.5, 0.6, 10, 0.55, 0.4), ReliabilityBin(0.9, 1.0, 30, 0.97, 1.0)],
    )
    assert isinstance(drawing, Markup)
    assert len(re.findall(r"<path [^>]*fill: var\(--series-1\)", drawing)) == 2 + 2 + 1, (
        "two bars above, two below, and the legend"
    )
    assert len(re.findall(r"<path [^>]*fill: var\(--series-2\)", drawing)) == 2 + 1


def test_surfaces_are_drawn_side_by_side_at_the_same_levels() -> None:
    coordinates = [-1.0, 0.0, 1.0]
    bowls = {
        name: [[1 + height * (x * x + y * y) for x in coordinates] for y in coordinates]
        for name, height in (("shallow", 0.4), ("steep", 10.0))
    }
    drawing = draw_surfaces("bowls", coordinates, bowls)
    assert ">shallow<" in drawing.replace(" ", "")
    assert ">steep<" in drawing.replace(" ", "")
    assert "8" in re.findall(r">\s*(\d+)\s*</text>", drawing)
    assert "var(--series-1)" in drawing
    assert "#0102" not in drawing
    assert draw_surfaces("bowls", coordinates, bowls) == drawing
