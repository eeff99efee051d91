"""SECURITY.md names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/[^`]+)`", SECURITY)))
LINKS = sorted(set(re.findall(r"\]\(([^)#]+)", SECURITY)))


@pytest.mark.parametrize("path", TESTS)
def test_named_test_exists(path: str) -> None:
    """A renamed test must be renamed in the threat model too."""
    assert "def test_" in (ROOT / path).read_text()


@pytest.mark.parametrize("path", LINKS)
def test_linked_page_exists(path: str) -> None:
    """Relative to the root of the repository."""
    assert (ROOT / path).is_file()


def test_every_threat_names_a_test() -> None:
    """The last cell of each row below a header that ends in `test`."""
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ")]
    threats = [row for row in rows if row.count("|") == 4 and not row.endswith("| test |")]
    assert len(threats) > 20
    for row in threats:
        if not row.startswith(("| version", "| newest", "| older")):
            assert "`tests/" in row.rsplit("|", 2)[1], row
