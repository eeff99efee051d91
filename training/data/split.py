"""Splits into train, validation and test.

Images with equal pixels form a group, which is never divided. Groups are drawn in the order of a
hash of their pixels and the seed. The split therefore does not depend on file names or file order.
When images are added, nearly all existing images stay in their split.
"""

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePath
from typing import Final, Self

import numpy as np

from training.data.image_set import (
    FREE,
    SPLIT_NAMES,
    SPLIT_WORDS,
    TEST,
    TRAIN,
    VALIDATION,
    ImageSet,
    Indices,
)
from training.data.scan import Facts
from training.errors import DataError

SPLIT_SEED: Final = 0
VALIDATION_FRACTION: Final = 0.1
TEST_FRACTION: Final = 0.2
_DRAWN: Final = ((TEST, TEST_FRACTION), (VALIDATION, VALIDATION_FRACTION))
_COLUMNS: Final = ("path", "label", "split", "left_out")

Group = tuple[int, ...]
"""Positions of all images with the same pixels."""


@dataclass(frozen=True)
class Split:
    """Sorted positions in an ImageSet, int64 `[n]` each; no image is in two splits."""

    train: Indices
    validation: Indices
    test: Indices

    @classmethod
    def of(cls, train: Iterable[int], validation: Iterable[int], test: Iterable[int]) -> Self:
        return cls(*(np.array(sorted(part), np.int64) for part in (train, validation, test)))


def missing_splits(data: ImageSet) -> frozenset[int]:
    """Return which of VALIDATION and TEST are not given. They must be drawn."""
    return frozenset({VALIDATION, TEST}) - set(data.given_splits.tolist())


def make_split(
    data: ImageSet,
    facts: Facts,
    left_out: Collection[int],
    seed: int = SPLIT_SEED,
    never_test: Collection[str] = frozenset(),
) -> Split:
    """Keep given splits and draw the others, per class: 20 % test, 10 % validation, rest train.

    Images without a given split are drawn for all three splits. Images given as train are drawn
    only for splits that are not given at all. Each missing split gets a group of every class that
    has enough groups.

    Args:
        data: The images.
        facts: Their scan.
        left_out: Positions of images that are in no split (`training.data.check.left_out`).
        seed: Seed of the draw.
        never_test: Digests of images that the initial weights were trained on. They are never
            drawn for test (`left_out` handles given test splits). They are drawn for validation
            only if it would be empty otherwise.
    """
    kept = [index for index in range(len(data)) if index not in left_out]
    given, missing = data.given_splits, missing_splits(data)
    parts = {split: [index for index in kept if given[index] == split] for split, _ in _DRAWN}
    drawn_for_validation: list[int] = []
    drawable = [index for index in kept if given[index] in {FREE, TRAIN}]
    for groups in _groups_by_class(data, facts, drawable, seed):
        free = {group for group in groups if all(given[index] == FREE for index in group)}
        used: set[Group] = set()
        # Leave at least one group for each split that is drawn later, and one for train.
        for later_splits, (split, fraction) in zip((1, 0), _DRAWN, strict=True):
            eligible = [group for group in groups if split in missing or group in free]
            unused = [group for group in eligible if group not in used]
            size = int(fraction * sum(map(len, eligible)) + 0.5)
            most_groups = len(groups) - len(used) - later_splits - 1
            candidates = _take_first(unused, size, most_groups)
            drawn = _without_digests(candidates, facts, never_test)
            if not drawn and split in missing and len(groups) > len(missing):
                drawn = sorted(_without_digests(unused, facts, never_test), key=len)[:1]
            parts[split] += chain(*drawn)
            used |= {*candidates, *drawn}
            if split == VALIDATION:
                few = unused[:1] if split in missing and len(groups) > len(missing) else []
                drawn_for_validation += chain(*(candidates or few))
    parts[VALIDATION] = parts[VALIDATION] or drawn_for_validation
    return Split.of({*kept} - {*parts[VALIDATION], *parts[TEST]}, parts[VALIDATION], parts[TEST])


def stratified_folds(
    data: ImageSet,
    facts: Facts,
    left_out: Collection[int],
    folds: int,
    seed: int = SPLIT_SEED,
    never_test: Collection[str] = frozenset(),
) -> list[Split]:
    """Split for cross-validation; given splits are ignored.

    Each image is in the test split of exactly one fold, unless its digest is in `never_test`. In
    each fold, about 10 % of all images are the validation split.

    Raises:
        DataError: A class has fewer different images to test than there are folds.
    """
    kept = [index for index in range(len(data)) if index not in left_out]
    classes = _groups_by_class(data, facts, kept, seed)
    tests = _balanced_folds(data, facts, classes, folds, never_test)
    splits = []
    for number, test in enumerate(map(set, tests)):
        validation: list[Group] = []
        for groups in classes:
            rest = _in_drawing_order(
                (group for group in groups if group not in test), facts, f"{seed} fold {number}"
            )
            size = max(1, int(VALIDATION_FRACTION * sum(map(len, groups)) + 0.5))
            validation += _take_first(rest, size, len(rest) - 1)
        held_out = {*chain(*test, *validation)}
        splits.append(Split.of({*kept} - held_out, chain(*validation), chain(*test)))
    return splits


def _balanced_folds(
    data: ImageSet,
    facts: Facts,
    classes: Iterable[list[Group]],
    folds: int,
    never_test: Collection[str],
) -> list[list[Group]]:
    """Return the test groups of each fold.

    Each group goes to the fold with the fewest images of its class. Among equal
    folds, it goes to the one with the fewest images in total.
    """
    tests: list[list[Group]] = [[] for _ in range(folds)]
    images: Counter[int] = Counter()
    for groups in classes:
        tested = _without_digests(groups, facts, never_test)
        if len(tested) < folds:
            known = len(groups) - len(tested)
            without = f", without {known} that the initial weights were trained on" if known else ""
            raise DataError(
                f"class {data.label(groups[0][0])} has {len(tested)} different images{without}: "
                f"too few for {folds} folds"
            )
        images_of_class: Counter[int] = Counter()
        for group in tested:
            _, _, fold = min((images_of_class[fold], images[fold], fold) for fold in range(folds))
            tests[fold].append(group)
            images_of_class[fold] += len(group)
            images[fold] += len(group)
    return tests


def _groups_by_class(
    data: ImageSet, facts: Facts, indices: Iterable[int], seed: int
) -> list[list[Group]]:
    """Return one list of groups, in drawing order, for each class that has images."""
    copies: dict[str, list[int]] = defaultdict(list)
    for index in indices:
        copies[facts[index].digest].append(index)
    classes: dict[int, list[Group]] = defaultdict(list)
    for group in copies.values():
        classes[int(data.labels[group[0]])].append(tuple(group))
    return [_in_drawing_order(classes[label], facts, str(seed)) for label in sorted(classes)]


def _in_drawing_order(groups: Iterable[Group], facts: Facts, seed: str) -> list[Group]:
    return sorted(
        groups,
        key=lambda group: hashlib.sha256(f"{seed} {facts[group[0]].digest}".encode()).digest(),
    )


def _without_digests(
    groups: Iterable[Group], facts: Facts, digests: Collection[str]
) -> list[Group]:
    return [group for group in groups if facts[group[0]].digest not in digests]


def _take_first(groups: Iterable[Group], images: int, most_groups: int) -> list[Group]:
    """Take groups in order, up to `images` images and `most_groups` groups; skip larger groups."""
    taken: list[Group] = []
    for group in groups:
        if len(group) <= images and len(taken) < most_groups:
            taken.append(group)
            images -= len(group)
    return taken


def write_split(split: Split, data: ImageSet, left_out: Mapping[int, str]) -> bytes:
    """Write a split as a CSV of path,label,split,left_out, with one row per image in order.

    `left_out` is the reason if an image is in no split. If the images are files, the CSV can be
    used as `--data` to train on the same split again.
    """
    split_of = {index: name for name in SPLIT_NAMES for index in getattr(split, name).tolist()}
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for index, location in enumerate(data.locations):
        rows.writerow(
            (location, data.label(index), split_of.get(index, ""), left_out.get(index, ""))
        )
    return text.getvalue().encode(errors="surrogateescape")


def read_split(content: bytes, data: ImageSet) -> tuple[Split, dict[int, str]]:
    """Read a CSV of `write_split`: the split, and the reason by position for images left out.

    Raises:
        DataError: The file belongs to other images.
    """
    parts: dict[int, list[int]] = {split: [] for split in (TRAIN, VALIDATION, TEST)}
    left_out: dict[int, str] = {}
    rows = list(csv.reader(io.StringIO(content.decode(errors="surrogateescape"), newline="")))[1:]
    if len(rows) != len(data):
        raise DataError(f"the split is for {len(rows):,} images, but {data.name} has {len(data):,}")
    for index, row in enumerate(rows):
        expected = [PurePath(data.paths[index]).name, data.label(index)]
        if len(row) != len(_COLUMNS) or [PurePath(row[0]).name, row[1]] != expected:
            raise DataError(
                f"the split belongs to other data: image {index + 1} is {', '.join(row[:2])} in "
                f"the split and {', '.join(expected)} in {data.name}"
            )
        _, _, word, reason = row
        if reason:
            left_out[index] = reason
        elif word in SPLIT_WORDS:
            parts[SPLIT_WORDS[word]].append(index)
        else:
            raise DataError(
                f"the split has {word!r} for {row[0]}; expected one of {', '.join(SPLIT_NAMES)}"
            )
    return Split.of(parts[TRAIN], parts[VALIDATION], parts[TEST]), left_out
