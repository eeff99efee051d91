"""Pages: values as a person reads them, and no text that is markup."""

from typing import Any

from html_page import Page

from training.reports.figures import SERIES
from training.reports.pages import MISSING, duration, fill, flattened, moment, percent


def test_what_can_not_be_shown_is_written_out() -> None:
    """A control character, and a byte that is no text and has no UTF-8; what HTML has a meaning for stays text."""
    differences = {"data": ["\x1b[31m<b>", "\udcff&"]}
    page = Page(
        fill(
            "comparison.html.j2",
            runs=[],
            series=SERIES,
            drawings=[],
            differences=differences,
            duels=[],
        )
    )
    assert page.all("td") == ["\\x1b[31m<b>", "\\udcff&"]


def test_values_are_flattened_as_toml_writes_them() -> None:
    """What is None or empty is not there; a text stands as it is, all else as JSON; 0 and false are values."""
    values: dict[str, Any] = {
        "a": {"b": {"c": 0.1}, "d": None, "e": [], "f": "é<"},
        "g": False,
        "h": [1, 2],
        "i": 0,
        "j": {},
    }
    assert flattened(values) == {"a.b.c": "0.1", "a.f": "é<", "g": "false", "h": "[1, 2]", "i": "0"}


def test_numbers_and_times_are_written_for_people() -> None:
    """Shares, durations and moments; what is not there is a dash."""
    assert [percent(share) for share in (None, 0.0, 0.12345, 1.0)] == [
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
    assert {seconds: duration(seconds) for seconds in durations} == durations
    assert moment("2024-02-03T04:05:06+00:00") == "3 February 2024 at 04:05 UTC"
    assert moment("2024-02-03T14:05:06") == "3 February 2024 at 14:05"
