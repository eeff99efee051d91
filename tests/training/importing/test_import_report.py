"""The report says what was guessed, and its forms say the same."""

import io
import json

from rich.console import Console

from training.gates.checks import at_least, at_most
from training.importing.import_report import ImportReport


def report() -> ImportReport:
    """Two findings, one of them with what could break a table."""
    made = ImportReport("a|b.onnx")
    made.add("layout", "NHWC", "found", "three channels | in the input")
    made.add("resize", "[bold]exact", "assumed", "nothing says")
    return made


def test_every_form_names_each_finding() -> None:
    """On a terminal, as JSON, as Markdown; a pipe in a name breaks no table, and markup is shown as it is."""
    console = Console(file=io.StringIO(), width=160)
    console.print(report().to_table())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]exact" in shown
    assert json.loads(report().to_json())["findings"][1] == {
        "subject": "resize",
        "value": "[bold]exact",
        "certainty": "assumed",
        "evidence": "nothing says",
    }
    markdown = report().to_markdown((at_least("spread", 2, 1), at_most("parity", 3, 1, "too far")))
    assert "# Import of a\\|b.onnx" in markdown
    assert "| layout | NHWC | found | three channels \\| in the input |" in markdown
    assert "| spread | ≥ 1 | 2 | passed |" in markdown
    assert "| parity | ≤ 1 | 3 | FAILED: too far |" in markdown
    assert report().assumed == ["resize"]
