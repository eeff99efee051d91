"""Splits: which images train, validate and test; the same for the same pictures and seed, whatever their order and names.

Images of equal pixels are a group that is never cut. Groups are drawn by a hash of the seed and their pixels, so an image
keeps its place, but for those near a border, when pictures are added.
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
    """Positions in an ImageSet, each sorted; no image is in two of them."""

    train: Indices
    validation: Indices
    test: Indices

    @classmethod
    def of(cls, train: Iterable[int], validation: Iterable[int], test: Iterable[int]) -> Self:
        """The split of these positions."""
        return cls(*(np.array(sorted(part), np.int64) for part in (train, validation, test)))


def missing_splits(data: ImageSet) -> frozenset[int]:
    """Which of VALIDATION and TEST no image is given for: they are drawn, from train too."""
    return frozenset({VALIDATION, TEST}) - set(data.given_splits.tolist())


def make_split(
    data: ImageSet,
    facts: Facts,
    left_out: Collection[int],
    seed: int = SPLIT_SEED,
    never_test: Collection[str] = frozenset(),
) -> Split:
    """Keep the given splits and draw the rest, class by class: 10 % for validation, 20 % for test, the others for train.

    Free images are drawn for all three parts; those given as train for a part that is given to none. A class has an image in
    each missing part where it has groups enough. Images whose digest is in `never_test` stay in train: an older model saw
    them; they choose the epoch only where there are no others. Those in `left_out` are in no part;
    `training.data.check.left_out` names the copies that would stand in two.
    """
    kept = [index for index in range(len(data)) if index not in left_out]
    given, missing = data.given_splits, missing_splits(data)
    parts = {part: [index for index in kept if given[index] == part] for part in (VALIDATION, TEST)}
    learned: list[int] = []
    for groups in _groups_by_class(
        data, facts, [index for index in kept if given[index] in {FREE, TRAIN}], seed
    ):
        free = {group for group in groups if all(given[index] == FREE for index in group)}
        spent: set[Group] = set()
        for parts_after, (part, fraction) in zip((1, 0), _DRAWN, strict=True):
            eligible = [group for group in groups if part in missing or group in free]
            waiting = [group for group in eligible if group not in spent]
            size = int(fraction * sum(map(len, eligible)) + 0.5)
            place = _first(waiting, size, at_most=len(groups) - len(spent) - parts_after - 1)
            drawn = _unseen(place, facts, never_test)
            if not drawn and part in missing and len(groups) > len(missing):
                drawn = sorted(_unseen(waiting, facts, never_test), key=len)[:1]
            parts[part] += chain(*drawn)
            spent |= {*place, *drawn}
            learned += chain(*place) if part == VALIDATION else ()
    parts[VALIDATION] = parts[VALIDATION] or learned
    return Split.of({*kept} - {*parts[VALIDATION], *parts[TEST]}, parts[VALIDATION], parts[TEST])


def stratified_folds(
    data: ImageSet, facts: Facts, left_out: Collection[int], folds: int, seed: int = SPLIT_SEED
) -> list[Split]:
    """Cross-validation: each image is in exactly one fold's test part, given splits or not; 10 % of all validate in each fold.

    Raises DataError for a class with too few different images.
    """
    kept = [index for index in range(len(data)) if index not in left_out]
    classes = _groups_by_class(data, facts, kept, seed)
    tests: list[list[Group]] = [[] for _ in range(folds)]
    images: Counter[int] = Counter()
    for groups in classes:
        if len(groups) < folds:
            raise DataError(
                f"class {data.label(groups[0][0])} has {len(groups)} different images, too few for {folds} folds"
            )
        of_class: Counter[int] = Counter()
        for group in groups:
            _, _, fold = min((of_class[fold], images[fold], fold) for fold in range(folds))
            tests[fold].append(group)
            of_class[fold] += len(group)
            images[fold] += len(group)
    splits = []
    for number, test in enumerate(map(set, tests)):
        validation: list[Group] = []
        for groups in classes:
            rest = _in_drawing_order(
                (group for group in groups if group not in test), facts, f"{seed} fold {number}"
            )
            size = max(1, int(VALIDATION_FRACTION * sum(map(len, groups)) + 0.5))
            validation += _first(rest, size, at_most=len(rest) - 1)
        splits.append(
            Split.of(
                {*kept}.difference(chain(*test, *validation)), chain(*validation), chain(*test)
            )
        )
    return splits


def _groups_by_class(
    data: ImageSet, facts: Facts, indices: Iterable[int], seed: int
) -> list[list[Group]]:
    """The groups of each class that has any, in the order in which they are drawn."""
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


def _unseen(groups: Iterable[Group], facts: Facts, seen: Collection[str]) -> list[Group]:
    return [group for group in groups if facts[group[0]].digest not in seen]


def _first(groups: Iterable[Group], images: int, at_most: int) -> list[Group]:
    """The first groups that fit into so many images, and no more groups than `at_most`."""
    taken: list[Group] = []
    for group in groups:
        if len(group) <= images and len(taken) < at_most:
            taken.append(group)
            images -= len(group)
    return taken


def write_split(split: Split, data: ImageSet, left_out: Mapping[int, str]) -> bytes:
    """The split as a CSV of path,label,split,left_out: a row for each image in order, with the reason where it is in no part.

    Where the images are files, it can be given as `--data` to train on the same split again.
    """
    part_of = {index: name for name in SPLIT_NAMES for index in getattr(split, name).tolist()}
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for index, location in enumerate(data.locations):
        rows.writerow(
            (location, data.label(index), part_of.get(index, ""), left_out.get(index, ""))
        )
    return text.getvalue().encode(errors="surrogateescape")


def read_split(content: bytes, data: ImageSet) -> tuple[Split, dict[int, str]]:
    """What `write_split` wrote: the split, and what is left out and why. Raises DataError where it is not of these images."""
    parts: dict[int, list[int]] = {part: [] for part in (TRAIN, VALIDATION, TEST)}
    left_out: dict[int, str] = {}
    rows = list(csv.reader(io.StringIO(content.decode(errors="surrogateescape"), newline="")))[1:]
    if len(rows) != len(data):
        raise DataError(f"the split is of {len(rows):,} images, but {data.name} has {len(data):,}")
    for index, row in enumerate(rows):
        here = [PurePath(data.paths[index]).name, data.label(index)]
        if len(row) != len(_COLUMNS) or [PurePath(row[0]).name, row[1]] != here:
            raise DataError(
                f"the split is of other data: image {index + 1} is {', '.join(row[:2])} there and {', '.join(here)} here"
            )
        if row[3]:
            left_out[index] = row[3]
        elif row[2] in SPLIT_WORDS:
            parts[SPLIT_WORDS[row[2]]].append(index)
        else:
            raise DataError(
                f"the split puts {row[0]} into {row[2]!r}; expected one of {', '.join(SPLIT_NAMES)}"
            )
    return Split.of(parts[TRAIN], parts[VALIDATION], parts[TEST]), left_out
