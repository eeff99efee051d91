"""Checks a data set before training: classes, duplicates, unreadable files, unusual images."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from statistics import median
from typing import Final

from training.data.findings import DataFinding, DataFindings, FindingItem, make_finding
from training.data.image_set import (
    FREE,
    SPLIT_NAMES,
    TEST,
    TRAIN,
    VALIDATION,
    ImageSet,
)
from training.data.scan import Facts
from training.data.split import missing_splits

RECOMMENDED_IMAGES_PER_CLASS: Final = 10
MIN_CLASS_SHARE: Final = 1 / 10
"""A class with fewer images than this share of the largest class is reported."""
# An image beyond one of these bounds is reported as unusual.
MIN_SIDE_RATIO: Final = 1 / 4  # of the median shorter side
MAX_AREA_RATIO: Final = 16  # of the median area
MAX_ASPECT_RATIO: Final = 4


def check(data: ImageSet, facts: Facts, known: Collection[str] = frozenset()) -> DataFindings:
    """Check a scanned data set. Problems are reported in the result and never raised.

    Args:
        data: The images.
        facts: Their scan.
        known: Digests of images that the initial weights of the run were trained on.
    """
    reasons = left_out(data, facts, known)
    findings = [
        *_class_findings(data, facts, reasons),
        *_name_findings(data),
        *_balance_findings(data, reasons),
        *_known_findings(data, facts, known),
        *_duplicate_findings(data, facts),
        *_image_findings(data, facts),
    ]
    counts = {
        name: int((data.labels == label).sum()) for label, name in enumerate(data.class_names)
    }
    return DataFindings(
        data=data.name,
        classes=counts,
        left_out=len(reasons),
        findings=tuple(finding for finding in findings if finding.items),
    )


def left_out(data: ImageSet, facts: Facts, known: Collection[str] = frozenset()) -> dict[int, str]:
    """Return the images that a run does not use: the reason by position in `data`.

    - Unreadable images.
    - Images in a given test split that the initial weights were trained on (digests in `known`).
    - Images outside a given test split that have a copy in it. If test has no copy, the same holds
      for a given validation split.
    - Images with equal pixels and different labels, if none of them is in such a split.

    Copies within a given validation or test split are kept, even if their labels differ.
    """
    reasons = {index: f"unreadable: {fact.error}" for index, fact in enumerate(facts) if fact.error}
    reasons |= dict.fromkeys(
        _known_in_test(data, facts, known), "the initial weights were trained on these pixels"
    )
    for group in _duplicate_groups(facts):
        copies = [index for index in group if index not in reasons]
        if len(copies) < 2:
            continue
        split = max(int(data.given_splits[index]) for index in copies)
        if split in {VALIDATION, TEST}:
            held_out = next(index for index in copies if data.given_splits[index] == split)
            reason = f"same pixels as {data.paths[held_out]} in the {SPLIT_NAMES[split]} split"
            reasons |= {index: reason for index in copies if data.given_splits[index] != split}
        elif len({data.label(index) for index in copies}) > 1:
            reason = f"same pixels with different labels: {_with_labels(data, copies)}"
            reasons |= dict.fromkeys(copies, reason)
    return reasons


def _class_findings(data: ImageSet, facts: Facts, unused: Collection[int]) -> Iterator[DataFinding]:
    distinct: dict[tuple[str, int], set[str]] = defaultdict(set)
    for index, split in enumerate(data.given_splits.tolist()):
        if index not in unused:
            distinct[data.label(index), TRAIN if split == FREE else split].add(facts[index].digest)
    given = set(data.given_splits.tolist()) - {FREE}
    needed = 1 + len(missing_splits(data))
    empty, untrained, too_small, small, unmeasured = [], [], [], [], []
    labels_in_use = set(data.labels.tolist())
    for label, name in enumerate(data.class_names):
        trainable = len(distinct[name, TRAIN])
        if label not in labels_in_use:
            empty.append(FindingItem((name,)))
            continue
        if given and not trainable:
            untrained.append(FindingItem((name,)))
        elif trainable < needed:
            too_small.append(FindingItem((name,), f"{trainable} different, {needed} needed"))
        elif trainable < RECOMMENDED_IMAGES_PER_CLASS:
            small.append(FindingItem((name,), f"{trainable} different"))
        unmeasured += [
            FindingItem((name,), SPLIT_NAMES[split])
            for split in sorted(given - {TRAIN})
            if not distinct[name, split]
        ]
    single = [FindingItem(data.class_names)] if len(data.class_names) < 2 else []
    refused = "refused: add images or remove the class"
    yield make_finding("only one class", single, "refused: at least two are needed", fatal=True)
    yield make_finding("classes without images", empty, refused, fatal=True)
    yield make_finding("classes missing in train", untrained, refused, fatal=True)
    yield make_finding(
        "classes with too few images for every split", too_small, refused, fatal=True
    )
    yield make_finding(
        "classes missing in a given split", unmeasured, "the split measures the others"
    )
    yield make_finding(
        f"classes with fewer than {RECOMMENDED_IMAGES_PER_CLASS} images",
        small,
        "trained; their metrics are unreliable",
    )


def _name_findings(data: ImageSet) -> Iterator[DataFinding]:
    """Yield the classes whose names differ only in case, spaces, `-` and `_`."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in data.class_names:
        alike[re.sub(r"[\s_-]+", " ", name.casefold())].append(name)
    items = [FindingItem(tuple(names)) for names in alike.values() if len(names) > 1]
    yield make_finding("class names that look alike", items, "trained as different classes")


def _balance_findings(data: ImageSet, unused: Collection[int]) -> Iterator[DataFinding]:
    counts = Counter(
        int(label) for index, label in enumerate(data.labels.tolist()) if index not in unused
    )
    most = max(counts.values(), default=0)
    items = [
        FindingItem((data.class_names[label],), f"{count:,} images, {most:,} in the largest class")
        for label, count in sorted(counts.items())
        if count < MIN_CLASS_SHARE * most
    ]
    yield make_finding(
        "classes that are ten times smaller than the largest",
        items,
        "trained; look at the accuracy of each class",
    )


def _known_in_test(data: ImageSet, facts: Facts, known: Collection[str]) -> list[int]:
    if not known:
        return []
    in_test = (data.given_splits == TEST).nonzero()[0].tolist()
    return [index for index in in_test if facts[index].digest in known]


def _known_findings(data: ImageSet, facts: Facts, known: Collection[str]) -> Iterator[DataFinding]:
    in_test = _known_in_test(data, facts, known)
    items = [FindingItem((data.paths[index],)) for index in in_test]
    yield make_finding("test images that the initial weights were trained on", items, "left out")
    trainable = sum(fact.digest in known for fact in facts) - len(items)
    counted = [FindingItem((f"{trainable:,} images",))] if trainable else []
    yield make_finding(
        "images that the initial weights were trained on", counted, "never in a drawn test split"
    )


def _duplicate_findings(data: ImageSet, facts: Facts) -> Iterator[DataFinding]:
    conflicting, across_splits, within_class = [], [], []
    for copies in _duplicate_groups(facts):
        paths = tuple(data.paths[index] for index in copies)
        labels = {data.label(index) for index in copies}
        splits = {int(data.given_splits[index]) for index in copies}
        if len(labels) > 1:
            conflicting.append(FindingItem((_with_labels(data, copies),)))
        if len(splits) > 1 and max(splits) > TRAIN:
            across_splits.append(FindingItem(paths))
        elif len(labels) == 1:
            within_class.append(FindingItem(paths))
    yield make_finding(
        "same pixels with different labels",
        conflicting,
        "left out, except in given validation and test splits",
    )
    yield make_finding(
        "copies across given splits",
        across_splits,
        "left out of train (of validation, if test has a copy)",
    )
    yield make_finding("copies within a class", within_class, "used; kept in one split")


def _image_findings(data: ImageSet, facts: Facts) -> Iterator[DataFinding]:
    def items(details: Iterable[tuple[int, str]]) -> list[FindingItem]:
        return [FindingItem((data.paths[index],), detail) for index, detail in details]

    readable = [(index, fact) for index, fact in enumerate(facts) if not fact.error]
    unreadable = ((index, fact.error) for index, fact in enumerate(facts) if fact.error)
    yield make_finding("unreadable files", items(unreadable), "left out")
    ignored = [FindingItem((path,), reason) for path, reason in data.ignored]
    yield make_finding("not images", ignored, "ignored")
    rotated = (
        (index, f"orientation {fact.orientation}")
        for index, fact in readable
        if fact.orientation != 1
    )
    yield make_finding("rotated by EXIF", items(rotated), "rotated upright")
    deep = ((index, f"{fact.bits} bits, {fact.mode}") for index, fact in readable if fact.bits > 8)
    yield make_finding("more than 8 bits per channel", items(deep), "the high byte is used")
    animated = ((index, f"{fact.frames} frames") for index, fact in readable if fact.frames > 1)
    yield make_finding("files with several images", items(animated), "the first image is used")
    rule = (
        f"side < 1/{round(1 / MIN_SIDE_RATIO)} or area > {MAX_AREA_RATIO} times the median, "
        f"or aspect > {MAX_ASPECT_RATIO}:1"
    )
    yield make_finding(f"unusual sizes ({rule})", items(_size_outliers(facts)), "used")


def _size_outliers(facts: Facts) -> Iterator[tuple[int, str]]:
    sizes = [(index, fact.width, fact.height) for index, fact in enumerate(facts) if not fact.error]
    if not sizes:
        return
    median_side = median(min(width, height) for _, width, height in sizes)
    median_area = median(width * height for _, width, height in sizes)
    for index, width, height in sizes:
        shorter, longer = sorted((width, height))
        if (
            shorter < MIN_SIDE_RATIO * median_side
            or width * height > MAX_AREA_RATIO * median_area
            or longer > MAX_ASPECT_RATIO * shorter
        ):
            yield index, f"{width}x{height}"


def _duplicate_groups(facts: Facts) -> list[list[int]]:
    """Groups of at least two readable images with equal pixels."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, fact in enumerate(facts):
        if not fact.error:
            groups[fact.digest].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _with_labels(data: ImageSet, indices: Iterable[int]) -> str:
    return ", ".join(f"{data.paths[index]} ({data.label(index)})" for index in indices)
