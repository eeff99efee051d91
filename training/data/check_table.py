"""The findings of a data check as a table for the terminal."""

from rich.table import Column, Table
from rich.text import Text

from training.data.findings import DataFindings, describe_items


def check_table(findings: DataFindings, limit: int | None = 5) -> Table:
    """Return all findings, with at most `limit` examples of each; None shows every example."""
    table = Table(
        "finding",
        Column("count", justify="right"),
        Column("examples", overflow="fold", ratio=1),
        "consequence",
        title=Text(
            f"{findings.data}: {findings.images:,} images in {len(findings.classes):,} classes"
        ),
        caption=f"{findings.left_out:,} images are left out of a run",
        show_lines=True,
    )
    if not findings.findings:
        table.add_row("nothing", "0", "", "")
    for finding in findings.findings:
        style = "bold red" if finding.fatal else ""
        table.add_row(
            Text(finding.kind, style),
            f"{len(finding.items):,}",
            Text("\n".join(describe_items(finding.items, limit))),
            Text(finding.consequence, style),
        )
    return table
