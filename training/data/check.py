"""The check of a data set: what would hurt a training, found before anything is trained, and what a run does about it."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from rich.table import Column, Table
from rich.text import Text

from training.data.image_set import (
    FREE,
    SPLIT_NAMES,
    TEST,
    TRAIN,
    VALIDATION,
    ImageSet,
    escape_unprintable,
)
from training.data.scan import Facts
from training.data.split import missing_splits

FEW: Final = 10
SMALL_SIDE: Final = 1 / 4
LARGE_AREA: Final = 16
LONG_ASPECT: Final = 4


@dataclass(frozen=True)
class FindingItem:
    """One thing found: the images or classes that it is about, and what there is to say."""

    names: tuple[str, ...]
    detail: str = ""

    def __str__(self) -> str:
        return " = ".join(self.names) + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True)
class DataFinding:
    """Everything of one kind, and what a run does about it; `fatal` where it refuses the data."""

    kind: str
    items: tuple[FindingItem, ...]
    consequence: str
    fatal: bool = False


@dataclass(frozen=True)
class DataFindings:
    """What a check found, what stops a run first. `classes` is the number of images of each class, usable or not."""

    data: str
    classes: Mapping[str, int]
    left_out: int
    findings: tuple[DataFinding, ...]

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(self.classes.values())

    @property
    def fatal(self) -> list[str]:
        """Why a run refuses the data, a sentence each; empty where it does not."""
        return [
            f"{finding.kind} ({', '.join(_shown(finding.items, 5))})"
            for finding in self.findings
            if finding.fatal
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything, with each item of each finding."""
        return {"images": self.images, **asdict(self)}


def check(data: ImageSet, facts: Facts) -> DataFindings:
    """Look for everything that is known to hurt. Raises nothing: what a run must refuse is in `DataFindings.fatal`."""
    reasons = left_out(data, facts)
    findings = [*_classes(data, facts, reasons), *_copies(data, facts), *_images(data, facts)]
    counts = {
        name: int((data.labels == label).sum()) for label, name in enumerate(data.class_names)
    }
    return DataFindings(
        data=data.name,
        classes=counts,
        left_out=len(reasons),
        findings=tuple(finding for finding in findings if finding.items),
    )


def left_out(data: ImageSet, facts: Facts) -> dict[int, str]:
    """Which images a run does not use, and why.

    Those that can not be read; those of which test has a copy, or validation where test has none, for given splits; and
    those that are there under several labels. What is given as validation or test is measured as it was given.
    """
    reasons = {index: f"unreadable: {fact.error}" for index, fact in enumerate(facts) if fact.error}
    for copies in _groups(facts):
        part = max(int(data.given_splits[index]) for index in copies)
        if part in {VALIDATION, TEST}:
            held_out = next(index for index in copies if data.given_splits[index] == part)
            reason = f"same pixels as {data.paths[held_out]}, given for {SPLIT_NAMES[part]}"
            reasons |= {index: reason for index in copies if data.given_splits[index] != part}
        elif len({data.label(index) for index in copies}) > 1:
            reasons |= {
                index: f"same pixels under several labels: {_labelled(data, copies)}"
                for index in copies
            }
    return reasons


def check_table(findings: DataFindings, limit: int | None = 5) -> Table:
    """One table of all findings, with at most `limit` examples of each; None names every file."""
    title = f"{findings.data}: {findings.images:,} images in {len(findings.classes):,} classes"
    columns = (
        "finding",
        Column("count", justify="right"),
        Column("which", overflow="fold", ratio=1),
        "what a run does",
    )
    table = Table(
        *columns,
        title=Text(title),
        caption=f"{findings.left_out:,} images are left out of a run",
        show_lines=True,
    )
    if not findings.findings:
        table.add_row("nothing", "0", "", "")
    for finding in findings.findings:
        style = "bold red" if finding.fatal else ""
        examples = Text("\n".join(_shown(finding.items, limit)))
        table.add_row(
            Text(finding.kind, style),
            f"{len(finding.items):,}",
            examples,
            Text(finding.consequence, style),
        )
    return table


def _shown(items: Collection[FindingItem], limit: int | None) -> list[str]:
    shown = [escape_unprintable(str(item)) for item in items][:limit]
    return (
        shown if len(shown) == len(items) else [*shown, f"… and {len(items) - len(shown):,} more"]
    )


def _classes(data: ImageSet, facts: Facts, unused: Collection[int]) -> Iterator[DataFinding]:
    """What is wrong with classes."""
    different: dict[tuple[str, int], set[str]] = defaultdict(set)
    for index, part in enumerate(data.given_splits.tolist()):
        if index not in unused:
            different[data.label(index), TRAIN if part == FREE else part].add(facts[index].digest)
    given = set(data.given_splits.tolist()) - {FREE}
    needed = 1 + len(missing_splits(data))
    empty, absent, small, few, untested = [], [], [], [], []
    present = set(data.labels.tolist())
    for label, name in enumerate(data.class_names):
        usable = len(different[name, TRAIN])
        if label not in present:
            empty.append(FindingItem((name,)))
            continue
        if given and not usable:
            absent.append(FindingItem((name,)))
        elif usable < needed:
            small.append(FindingItem((name,), f"{usable} different, {needed} needed"))
        elif usable < FEW:
            few.append(FindingItem((name,), f"{usable} different"))
        untested += [
            FindingItem((name,), SPLIT_NAMES[part])
            for part in sorted(given - {TRAIN})
            if not different[name, part]
        ]
    single = [FindingItem(data.class_names)] if len(data.class_names) < 2 else []
    refused = "refused: add images, or take the class away"
    yield _finding("only one class", single, "refused: two are needed", fatal=True)
    yield _finding("classes without images", empty, refused, fatal=True)
    yield _finding("classes missing in train", absent, refused, fatal=True)
    yield _finding("classes with too few images for every split", small, refused, fatal=True)
    yield _finding("classes missing in a given split", untested, "measured without them")
    yield _finding(
        f"classes with fewer than {FEW} images", few, "trained; their figures will say little"
    )


def _copies(data: ImageSet, facts: Facts) -> Iterator[DataFinding]:
    """Images with equal pixels."""
    conflicting, across, others = [], [], []
    for copies in _groups(facts):
        paths = tuple(data.paths[index] for index in copies)
        labels = {data.label(index) for index in copies}
        parts = {int(data.given_splits[index]) for index in copies}
        if len(labels) > 1:
            conflicting.append(FindingItem((_labelled(data, copies),)))
        if len(parts) > 1 and max(parts) > TRAIN:
            across.append(FindingItem(paths))
        elif len(labels) == 1:
            others.append(FindingItem(paths))
    yield _finding(
        "same pixels under several labels",
        conflicting,
        "left out, but for given validation and test images",
    )
    yield _finding(
        "copies across given splits",
        across,
        "left out of train (of validation, where test has a copy)",
    )
    yield _finding("copies of one picture", others, "used, and never drawn into two splits")


def _images(data: ImageSet, facts: Facts) -> Iterator[DataFinding]:
    """What is wrong or unusual with single files."""

    def items(found: Iterable[tuple[int, str]]) -> list[FindingItem]:
        return [FindingItem((data.paths[index],), detail) for index, detail in found]

    readable = [(index, fact) for index, fact in enumerate(facts) if not fact.error]
    yield _finding(
        "unreadable files",
        items((i, fact.error) for i, fact in enumerate(facts) if fact.error),
        "left out",
    )
    yield _finding(
        "not images", [FindingItem((path,), reason) for path, reason in data.ignored], "not read"
    )
    turned = (
        (index, f"orientation {fact.orientation}")
        for index, fact in readable
        if fact.orientation != 1
    )
    yield _finding("turned by EXIF", items(turned), "turned upright")
    deep = ((index, f"{fact.bits} bits, {fact.mode}") for index, fact in readable if fact.bits > 8)
    yield _finding("more than 8 bits a channel", items(deep), "the high byte is used")
    moving = ((index, f"{fact.frames} frames") for index, fact in readable if fact.frames > 1)
    yield _finding(
        "animations and files of several images", items(moving), "the first image is used"
    )
    rule = f"side < 1/{round(1 / SMALL_SIDE)} or area > {LARGE_AREA} times the median, or longer than {LONG_ASPECT} to 1"
    yield _finding(f"unusual sizes ({rule})", items(_size_outliers(facts)), "used")


def _size_outliers(facts: Facts) -> Iterator[tuple[int, str]]:
    sizes = [(index, fact.width, fact.height) for index, fact in enumerate(facts) if not fact.error]
    if not sizes:
        return
    side = median(min(width, height) for _, width, height in sizes)
    area = median(width * height for _, width, height in sizes)
    for index, width, height in sizes:
        shorter, longer = sorted((width, height))
        if (
            shorter < SMALL_SIDE * side
            or width * height > LARGE_AREA * area
            or longer > LONG_ASPECT * shorter
        ):
            yield index, f"{width}x{height}"


def _groups(facts: Facts) -> list[list[int]]:
    """Positions of readable images with the same pixels, where there are several, in order."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, fact in enumerate(facts):
        if not fact.error:
            groups[fact.digest].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _labelled(data: ImageSet, indices: Iterable[int]) -> str:
    return ", ".join(f"{data.paths[index]} ({data.label(index)})" for index in indices)


def _finding(
    kind: str, items: Iterable[FindingItem], consequence: str, *, fatal: bool = False
) -> DataFinding:
    return DataFinding(kind, tuple(items), consequence, fatal)
