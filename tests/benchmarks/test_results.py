from pathlib import Path

import numpy as np
from results import read_sections, spread, table, write_section


def test_section_that_is_measured_again_keeps_its_notes(tmp_path: Path) -> None:
    """Lines that begin with `>` are kept, and other sections do not change."""
    path = tmp_path / "RESULTS.md"
    write_section("Start", ["old"], path)
    write_section("Overload", ["figures"], path)
    path.write_text(path.read_text().replace("old", "old\n\n> the import of numpy limits it"))
    write_section("Start", ["new"], path)
    sections = read_sections(path)
    assert "new" in sections["Start"]
    assert "old" not in sections["Start"]
    assert "> the import of numpy limits it" in sections["Start"]
    assert "figures" in sections["Overload"]


def test_sections_have_a_fixed_order(tmp_path: Path) -> None:
    """Unknown sections come last."""
    path = tmp_path / "RESULTS.md"
    for title in ("Unknown", "Start", "Overload"):
        write_section(title, ["figures"], path)
    assert list(read_sections(path)) == ["Overload", "Start", "Unknown"]


def test_table_is_markdown() -> None:
    """A header, a separator and one line per row."""
    assert table(("a", "b"), [("1", "2")]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]


def test_spread_has_a_range_for_several_values() -> None:
    """A single value has none."""
    assert spread(np.array([1.5])) == "1.50"
    assert spread(np.array([1.0, 4.0, 2.0])) == "2.00 (1.00 to 4.00)"


def test_prose_is_wrapped_but_tables_are_not(tmp_path: Path) -> None:
    """Lines of prose have at most 100 columns."""
    path = tmp_path / "RESULTS.md"
    write_section("Start", ["word " * 50, *table(("column " * 20,), [("cell",)])], path)
    lines = read_sections(path)["Start"].splitlines()
    assert max(len(line) for line in lines if not line.startswith("|")) <= 100
    assert max(len(line) for line in lines if line.startswith("|")) > 100
