"""The import report: each decision with its certainty and its evidence."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from rich.table import Table
from rich.text import Text

from model_store.manifest import Check

Certainty = Literal["given", "found", "checked", "changed", "assumed", "missing"]
IMPORT_REPORT: Final = "import.json"
_STYLES: Final = {"assumed": "bold yellow", "missing": "yellow", "checked": "green"}
_LEGEND: Final = (
    "given: by an option; found: in the file; checked: found, and confirmed by numbers; "
    "changed: adapted to the serving contract; assumed: neither stated nor in the file; "
    "missing: not found"
)


@dataclass(frozen=True)
class ReportEntry:
    subject: str
    value: str
    certainty: Certainty
    evidence: str


@dataclass
class ImportReport:
    """The decisions of an import, in the order in which they were made."""

    source: str
    entries: list[ReportEntry] = field(default_factory=list)

    def add(self, subject: str, value: object, certainty: Certainty, evidence: str) -> None:
        self.entries.append(ReportEntry(subject, str(value), certainty, evidence))

    @property
    def assumed(self) -> list[str]:
        return [entry.subject for entry in self.entries if entry.certainty == "assumed"]

    def to_json(self) -> bytes:
        """The report as the version stores it."""
        values = {"source": self.source, "findings": [asdict(entry) for entry in self.entries]}
        return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"

    def to_table(self) -> Table:
        table = Table(
            "subject",
            "value",
            "certainty",
            "evidence",
            title=Text(f"import of {self.source}"),
            caption=_LEGEND,
        )
        for entry in self.entries:
            certainty = Text(entry.certainty, _STYLES.get(entry.certainty, ""))
            table.add_row(entry.subject, Text(entry.value), certainty, Text(entry.evidence))
        return table

    def to_markdown(self, checks: tuple[Check, ...]) -> str:
        return "\n".join(self._lines(checks)) + "\n"

    def _lines(self, checks: tuple[Check, ...]) -> Iterator[str]:
        yield from (f"# Import of {_cell(self.source)}", "", _LEGEND + ".", "")
        yield from ("| subject | value | certainty | evidence |", "|---|---|---|---|")
        for entry in self.entries:
            cells = (entry.subject, entry.value, entry.certainty, entry.evidence)
            yield f"| {' | '.join(map(_cell, cells))} |"
        yield from ("", "| check | expected | measured | result |", "|---|---|---|---|")
        for check in checks:
            sign = "≥" if check.comparison == "at_least" else "≤"
            bound = f"{sign} {check.threshold:.4g}"
            yield f"| {check.check} | {bound} | {check.value:.4g} | {_cell(_verdict(check))} |"


def _verdict(check: Check) -> str:
    if check.passed:
        return "passed"
    return f"waived: {check.waived}" if check.waived else f"FAILED: {check.detail}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
