"""The import report as a table, JSON and Markdown."""

import io
import json

from rich.console import Console

from training.gates.checks import at_least, at_most
from training.importing.import_report import ImportReport


def report() -> ImportReport:
    """Two entries with characters that are special in Markdown and rich."""
    result = ImportReport("a|b.onnx")
    result.add("layout", "NHWC", "found", "3 channels | in the input")
    result.add("resize", "[bold]exact", "assumed", "not stated")
    return result


def test_every_format_lists_each_entry() -> None:
    """A pipe breaks no Markdown table, and rich markup is shown as text."""
    console = Console(file=io.StringIO(), width=160)
    console.print(report().to_table())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]exact" in shown
    assert json.loads(report().to_json())["findings"][1] == {
        "subject": "resize",
        "value": "[bold]exact",
        "certainty": "assumed",
        "evidence": "not stated",
    }
    markdown = report().to_markdown((at_least("spread", 2, 1), at_most("parity", 3, 1, "too far")))
    assert "# Import of a\\|b.onnx" in markdown
    assert "| layout | NHWC | found | 3 channels \\| in the input |" in markdown
    assert "| spread | ≥ 1 | 2 | passed |" in markdown
    assert "| parity | ≤ 1 | 3 | FAILED: too far |" in markdown
    assert report().assumed == ["resize"]
