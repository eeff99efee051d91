"""The import report: each guess, the evidence for it, and what was only assumed."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from rich.table import Table
from rich.text import Text

from model_store.manifest import Check

Certainty = Literal["given", "found", "checked", "changed", "assumed", "missing"]
REPORT: Final = "import.json"
_STYLES: Final = {"assumed": "bold yellow", "missing": "yellow", "checked": "green"}
_LEGEND: Final = (
    "given: you said so; found: it stands in the file; checked: found, and true by numbers; changed: made to fit the contract; "
    "assumed: nothing in the file says so; missing: it was looked for"
)


@dataclass(frozen=True)
class Finding:
    """One thing that the import had to know: what was taken, how sure that is, and why."""

    subject: str
    value: str
    certainty: Certainty
    evidence: str


@dataclass
class ImportReport:
    """What an import found, in the order in which it looked."""

    source: str
    findings: list[Finding] = field(default_factory=list)

    def add(self, subject: str, value: object, certainty: Certainty, evidence: str) -> None:
        """Note one finding."""
        self.findings.append(Finding(subject, str(value), certainty, evidence))

    @property
    def assumed(self) -> list[str]:
        """What nothing in the file says."""
        return [finding.subject for finding in self.findings if finding.certainty == "assumed"]

    def to_json(self) -> bytes:
        """As the version keeps it."""
        values = {"source": self.source, "findings": [asdict(finding) for finding in self.findings]}
        return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"

    def to_table(self) -> Table:
        """As a terminal shows it; what was only assumed stands out."""
        table = Table(
            "what",
            "taken",
            "how",
            "evidence",
            title=Text(f"import of {self.source}"),
            caption=_LEGEND,
        )
        for finding in self.findings:
            how = Text(finding.certainty, _STYLES.get(finding.certainty, ""))
            table.add_row(finding.subject, Text(finding.value), how, Text(finding.evidence))
        return table

    def to_markdown(self, checks: tuple[Check, ...]) -> str:
        """As a file for people, with what the gates found."""
        return "\n".join(self._lines(checks)) + "\n"

    def _lines(self, checks: tuple[Check, ...]) -> Iterator[str]:
        yield from (f"# Import of {_cell(self.source)}", "", _LEGEND + ".", "")
        yield from ("| what | taken | how | evidence |", "|---|---|---|---|")
        for finding in self.findings:
            cells = (finding.subject, finding.value, finding.certainty, finding.evidence)
            yield f"| {' | '.join(map(_cell, cells))} |"
        yield from ("", "| check | expected | found | verdict |", "|---|---|---|---|")
        for check in checks:
            bound = f"{'≥' if check.comparison == 'at_least' else '≤'} {check.threshold:.4g}"
            verdict = (
                "passed"
                if check.passed
                else f"waived: {check.waived}"
                if check.waived
                else f"FAILED: {check.detail}"
            )
            yield f"| {check.check} | {bound} | {check.value:.4g} | {_cell(verdict)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
