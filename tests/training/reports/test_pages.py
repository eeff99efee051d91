"""Formatting of values, and escaping of text."""

from typing import Any

from html_page import Page

from training.reports.figures import SERIES_COLOURS
from training.reports.pages import (
    MISSING,
    flatten,
    format_duration,
    format_percent,
    format_time,
    render_page,
)


def test_unprintable_characters_are_written_as_escapes() -> None:
    differences = {"data": ["\x1b[31m<b>", "\udcff&"]}
    page = Page(
        render_page(
            "comparison.html.j2",
            runs=[],
            colours=SERIES_COLOURS,
            drawings=[],
            differences=differences,
            mcnemar_tests=[],
            untested=[],
        )
    )
    assert page.all("td") == ["\\x1b[31m<b>", "\\udcff&"]


def test_nested_values_are_flattened() -> None:
    """None and empty lists are left out; 0 and false are not."""
    values: dict[str, Any] = {
        "a": {"b": {"c": 0.1}, "d": None, "e": [], "f": "é<"},
        "g": False,
        "h": [1, 2],
        "i": 0,
        "j": {},
    }
    assert flatten(values) == {"a.b.c": "0.1", "a.f": "é<", "g": "false", "h": "[1, 2]", "i": "0"}


def test_shares_durations_and_times_are_formatted() -> None:
    assert [format_percent(share) for share in (None, 0.0, 0.12345, 1.0)] == [
        MISSING,
        "0.00%",
        "12.35%",
        "100.00%",
    ]
    durations = {
        0: "0.0 s",
        59.94: "59.9 s",
        60: "0:01:00",
        3599.6: "1:00:00",
        90_061: "1 day, 1:01:01",
    }
    assert {seconds: format_duration(seconds) for seconds in durations} == durations
    assert format_time("2024-02-03T04:05:06+00:00") == "3 February 2024 at 04:05 UTC"
    assert format_time("2024-02-03T14:05:06") == "3 February 2024 at 14:05"
