"""The findings and the classes of a data check as tables for the terminal."""

from typing import Final

from rich.table import Column, Table
from rich.text import Text

from training.data.findings import DataFindings, describe_items
from training.data.image_set import escape_unprintable

MAX_CLASSES: Final = 20
FINDING_EXAMPLES: Final = 5


def classes_table(findings: DataFindings, limit: int | None = MAX_CLASSES) -> Table:
    """Return the number of images of each class, of at most `limit` classes; None shows all."""
    table = Table("class", Column("images", justify="right"), title="classes")
    counts = list(findings.classes.items())
    for name, count in counts[:limit]:
        table.add_row(Text(escape_unprintable(name)), f"{count:,}")
    if limit is not None and len(counts) > limit:
        hidden = counts[limit:]
        table.add_row(f"… and {len(hidden):,} more", f"{sum(count for _, count in hidden):,}")
    return table


def describe_data(findings: DataFindings) -> str:
    return f"{findings.data}: {findings.images:,} images in {len(findings.classes):,} classes"


def check_table(findings: DataFindings, limit: int | None = FINDING_EXAMPLES) -> Table:
    """Return all findings, with at most `limit` examples of each; None shows every example.

    If nothing was found, print `describe_data` instead.
    """
    table = Table(
        "finding",
        Column("count", justify="right"),
        Column("examples", overflow="fold", ratio=1),
        "consequence",
        title=Text(describe_data(findings)),
        caption=f"{findings.left_out:,} images are left out of a run",
        show_lines=True,
    )
    for finding in findings.findings:
        style = "bold red" if finding.fatal else ""
        table.add_row(
            Text(finding.kind, style),
            f"{len(finding.items):,}",
            Text("\n".join(describe_items(finding.items, limit))),
            Text(finding.consequence, style),
        )
    return table
