from pathlib import Path

import numpy as np
from results import read_sections, spread, table, write_section


def test_a_section_that_is_measured_again_keeps_what_a_person_has_noted(tmp_path: Path) -> None:
    """Lines that begin with `>` stay, the rest is new, and the other sections are as they were."""
    path = tmp_path / "RESULTS.md"
    write_section("Start", ["old"], path)
    write_section("Overload", ["carried"], path)
    path.write_text(path.read_text().replace("old", "old\n\n> the import of numpy limits it"))
    write_section("Start", ["new"], path)
    sections = read_sections(path)
    assert "new" in sections["Start"]
    assert "old" not in sections["Start"]
    assert "> the import of numpy limits it" in sections["Start"]
    assert "carried" in sections["Overload"]


def test_sections_stand_in_one_order_whichever_is_measured_first(tmp_path: Path) -> None:
    """One that nobody knows comes last."""
    path = tmp_path / "RESULTS.md"
    for title in ("Of one's own", "Start", "Overload"):
        write_section(title, ["figures"], path)
    assert list(read_sections(path)) == ["Overload", "Start", "Of one's own"]


def test_a_table_is_markdown() -> None:
    """A head, a rule, a row."""
    assert table(("a", "b"), [("1", "2")]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]


def test_a_spread_names_the_range_only_where_there_is_one() -> None:
    """A single turn has none."""
    assert spread(np.array([1.5])) == "1.50"
    assert spread(np.array([1.0, 4.0, 2.0])) == "2.00 (1.00 to 4.00)"
