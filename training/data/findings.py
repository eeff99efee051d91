"""Findings about a data set: what was found, where, and what a run does about it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training.data.image_set import escape_unprintable


@dataclass(frozen=True)
class FindingItem:
    """What a finding is about: one image, a group of images with equal pixels, or a class."""

    names: tuple[str, ...]
    detail: str = ""

    def __str__(self) -> str:
        return " = ".join(self.names) + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True)
class DataFinding:
    """One kind of problem, with every place where it occurs.

    Attributes:
        kind: The problem.
        items: The images or classes that have it.
        consequence: What a run does about it.
        fatal: Whether a run refuses the data.
    """

    kind: str
    items: tuple[FindingItem, ...]
    consequence: str
    fatal: bool = False


@dataclass(frozen=True)
class DataFindings:
    """Result of a check.

    Attributes:
        data: Name of the data set.
        classes: Number of images of each class, usable or not.
        left_out: Number of images that a run does not use.
        findings: Fatal findings come first.
    """

    data: str
    classes: Mapping[str, int]
    left_out: int
    findings: tuple[DataFinding, ...]

    @property
    def images(self) -> int:
        return sum(self.classes.values())

    @property
    def fatal(self) -> list[str]:
        """Reasons to refuse the data; empty if a run can use it."""
        return [
            f"{finding.kind} ({', '.join(describe_items(finding.items, 5))})"
            for finding in self.findings
            if finding.fatal
        ]

    def to_json(self) -> dict[str, Any]:
        return {"images": self.images, **asdict(self)}


def describe_items(items: Collection[FindingItem], limit: int | None) -> list[str]:
    """Return one line per item, at most `limit`, and then the number of hidden items."""
    lines = [escape_unprintable(str(item)) for item in items][:limit]
    hidden = len(items) - len(lines)
    return [*lines, f"… and {hidden:,} more"] if hidden else lines


def make_finding(
    kind: str, items: Iterable[FindingItem], consequence: str, *, fatal: bool = False
) -> DataFinding:
    return DataFinding(kind, tuple(items), consequence, fatal)
