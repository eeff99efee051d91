"""Splits: stratified, disjoint and repeatable; groups stay whole and given splits are kept."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pictures import put

from training.data.image_set import FREE, TEST, TRAIN, VALIDATION, ImageSet, LazyColumn
from training.data.scan import Facts, ImageFacts, scan
from training.data.sources import load_data, merge
from training.data.split import Split, make_split, read_split, stratified_folds, write_split
from training.errors import DataError


def images(rows: Sequence[tuple[str, str, int]]) -> tuple[ImageSet, Facts]:
    """A set without pixels, from (digest, label, given split); equal digests are copies."""
    names = tuple(sorted({label for _, label, _ in rows}))
    paths: LazyColumn[str] = [f"{label}/{number}.png" for number, (_, label, _) in enumerate(rows)]
    labels = np.array([names.index(label) for _, label, _ in rows])
    given = np.array([split for _, _, split in rows], np.int8)
    data = ImageSet("toys", "", "", paths, paths, [b""] * len(rows), labels, names, given, "")
    return data, [ImageFacts(digest=digest) for digest, _, _ in rows]


def toys(label: str, count: int, split: int = FREE, first: int = 0) -> list[tuple[str, str, int]]:
    return [(f"{label}-{number}", label, split) for number in range(first, first + count)]


def sizes(split: Split) -> list[int]:
    return [len(part) for part in vars(split).values()]


def digests(split: Split, facts: Facts) -> dict[str, set[str]]:
    return {name: {facts[index].digest for index in part} for name, part in vars(split).items()}


def test_a_split_is_stratified_disjoint_complete_and_repeatable() -> None:
    """70, 10 and 20 % of each class, each image once; another seed gives another split."""
    data, facts = images(toys("cat", 100) + toys("dog", 50))
    split, again = make_split(data, facts, {}), make_split(data, facts, {})
    assert sizes(split) == [105, 15, 30]
    assert sorted(np.concatenate(list(vars(split).values())).tolist()) == list(range(150))
    for part in vars(split).values():
        assert np.bincount(data.labels[part]).tolist() == [len(part) * 2 // 3, len(part) // 3]
        assert part.dtype == np.int64
        assert np.all(np.diff(part) > 0)
    assert (
        digests(split, facts)
        == digests(again, facts)
        != digests(make_split(data, facts, {}, seed=1), facts)
    )


def test_the_split_of_the_digits_is_known() -> None:
    """The same on every machine and with every library version."""
    digits = load_data("digits")
    split = make_split(digits, scan(digits).facts, {})
    assert sizes(split) == [1259, 179, 359]
    assert split.test[:4].tolist() == [1, 4, 7, 18]


def test_order_and_names_do_not_matter() -> None:
    rows = toys("cat", 40) + toys("dog", 30)
    data, facts = images(rows)
    other, other_facts = images(
        [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    )
    assert digests(make_split(data, facts, {}), facts) == digests(
        make_split(other, other_facts, {}), other_facts
    )


def test_added_images_hardly_move_the_others() -> None:
    """With 10 % more images, over 96 % stay in their split, and the proportions hold."""
    data, facts = images(toys("cat", 500))
    more, more_facts = images(toys("cat", 550))
    before, after = (
        digests(make_split(data, facts, {}), facts),
        digests(make_split(more, more_facts, {}), more_facts),
    )
    stayed = sum(len(before[name] & after[name]) for name in before)
    assert stayed > 480
    assert sizes(make_split(more, more_facts, {})) == [385, 55, 110]


def test_copies_stay_in_one_split() -> None:
    """The proportions hold all the same."""
    rows = [(f"cat-{number}", "cat", FREE) for number in range(40) for _ in range(1 + number % 4)]
    data, facts = images(rows)
    for seed in range(20):
        split = make_split(data, facts, {}, seed)
        parts = list(digests(split, facts).values())
        assert sum(map(len, parts)) == 40
        assert sizes(split) == [70, 10, 20]


@pytest.mark.parametrize("counts", [(1, 1, 1), (1, 1, 8), (5, 5, 5), (1, 50, 1, 1)])
def test_a_class_with_three_groups_is_in_every_split(counts: tuple[int, ...]) -> None:
    """Whatever the number of copies of each image."""
    data, facts = images(
        [
            (f"cat-{number}", "cat", FREE)
            for number, count in enumerate(counts)
            for _ in range(count)
        ]
    )
    for seed in range(10):
        assert min(sizes(make_split(data, facts, {}, seed))) >= 1


def test_a_class_with_fewer_groups_is_in_train() -> None:
    """The check refuses it."""
    data, facts = images(toys("cat", 2))
    assert sizes(make_split(data, facts, {})) == [2, 0, 0]


def test_images_left_out_are_in_no_split() -> None:
    """They do not count for the proportions either."""
    data, facts = images(toys("cat", 30))
    split = make_split(data, facts, dict.fromkeys(range(10), "unreadable"))
    assert sizes(split) == [14, 2, 4]
    assert np.concatenate(list(vars(split).values())).min() == 10


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({TRAIN: 100}, [70, 10, 20]),
        ({TRAIN: 100, TEST: 30}, [90, 10, 30]),
        ({TRAIN: 100, VALIDATION: 30}, [80, 30, 20]),
        ({TRAIN: 100, VALIDATION: 7, TEST: 30}, [100, 7, 30]),
        ({TRAIN: 100, VALIDATION: 10, TEST: 30, FREE: 50}, [135, 15, 40]),
        ({TRAIN: 100, TEST: 30, FREE: 50}, [125, 15, 40]),
    ],
)
def test_given_splits_are_kept_and_missing_ones_are_drawn_from_train(
    given: dict[int, int], expected: list[int]
) -> None:
    """Images without a split are drawn for all three."""
    rows, first = [], 0
    for split, count in given.items():
        rows += toys("cat", count, split, first)
        first += count
    data, facts = images(rows)
    split = make_split(data, facts, {})
    assert sizes(split) == expected
    for part, indices in zip((TRAIN, VALIDATION, TEST), vars(split).values(), strict=True):
        foreign = {TRAIN, VALIDATION, TEST} - {part, TRAIN}
        assert not foreign & set(data.given_splits[indices].tolist())


def test_a_free_copy_of_a_training_image_trains() -> None:
    """Even if images without a split would be drawn for test."""
    data, facts = images(
        toys("cat", 50, TRAIN)
        + toys("cat", 20, FREE)
        + toys("cat", 9, TEST, 90)
        + toys("cat", 9, VALIDATION, 80)
    )
    split = make_split(data, facts, {})
    assert sizes(split) == [70, 9, 9]


def test_training_images_of_an_older_model_are_never_tested() -> None:
    """With the same seed, old test images stay in test, and new ones are drawn in proportion."""
    data, facts = images(toys("cat", 1000))
    old = make_split(data, facts, {})
    seen = digests(old, facts)["train"]
    more, more_facts = images(toys("cat", 1100))
    new = digests(make_split(more, more_facts, {}, never_test=seen), more_facts)
    assert not seen & (new["test"] | new["validation"])
    assert len(new["test"] & digests(old, facts)["test"]) > 190
    added = {f"cat-{number}" for number in range(1000, 1100)}
    assert [len(added & part) for part in new.values()] == pytest.approx([70, 10, 20], abs=12)


def test_with_another_seed_they_are_not_tested_either() -> None:
    """The test split shrinks; a class without other images has no test images."""
    data, facts = images(toys("cat", 100) + toys("dog", 30))
    seen = digests(make_split(data, facts, {}), facts)["train"] | {
        f"dog-{number}" for number in range(30)
    }
    new = digests(make_split(data, facts, {}, seed=5, never_test=seen), facts)
    assert not seen & (new["test"] | new["validation"])
    assert new["test"]
    assert new["validation"]


def test_they_validate_if_there_are_no_other_images() -> None:
    """As if the older model was trained with `learn_validation`."""
    data, facts = images(toys("cat", 100) + toys("dog", 30))
    old = digests(make_split(data, facts, {}), facts)
    new = digests(make_split(data, facts, {}, never_test=old["train"] | old["validation"]), facts)
    assert new == old


def test_folds_test_every_image_once() -> None:
    """Splits of a fold are disjoint, and copies stay together."""
    data, facts = images(toys("cat", 53) * 2 + toys("dog", 27))
    folds = stratified_folds(data, facts, {0: "unreadable"}, 5)
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(1, 133))
    for fold in folds:
        assert sum(sizes(fold)) == len(np.unique(np.concatenate(list(vars(fold).values())))) == 132
        assert sum(map(len, digests(fold, facts).values())) == 80
        assert len(fold.test) == pytest.approx(132 / 5, abs=2)
        assert sorted(set(data.labels[fold.validation].tolist())) == [0, 1]
    validations = [digests(fold, facts)["validation"] for fold in folds]
    for first, second in itertools.combinations(validations, 2):
        assert len(first & second) < len(first) / 2  # drawn anew for each fold


def test_too_few_images_for_the_folds_are_refused() -> None:
    data, facts = images(toys("cat", 9) + toys("dog", 4) * 3)
    with pytest.raises(DataError, match=r"class dog has 4 .*5 folds"):
        stratified_folds(data, facts, {}, 5)


def test_a_split_file_can_be_read_back_and_used_as_data(tmp_path: Path) -> None:
    files = {
        f"{label}/{name}{n}.png": seed + n
        for label, seed in (("[cat]", 0), ("dog, big", 50))
        for n in range(10)
        for name in "é;"
    }
    data = load_data(str(put(tmp_path / "pets", files)))
    facts = scan(data).facts
    left_out = {3: 'unreadable: "?"'}
    split = make_split(data, facts, left_out)
    (tmp_path / "run").mkdir()
    content = write_split(split, data, left_out)
    (tmp_path / "run" / "split.csv").write_bytes(content)
    read, reasons = read_split(content, data)
    assert reasons == left_out
    assert all(
        np.array_equal(a, b) for a, b in zip(vars(read).values(), vars(split).values(), strict=True)
    )
    again = load_data(str(tmp_path / "run" / "split.csv"))
    assert again.class_names == data.class_names
    assert again.given_splits[split.test].tolist() == [TEST] * len(split.test)
    assert again.given_splits[3] == FREE
    same = make_split(again, facts, left_out)
    assert all(
        np.array_equal(a, b) for a, b in zip(vars(same).values(), vars(split).values(), strict=True)
    )


def test_the_split_file_of_merged_and_known_sets_can_be_read_back(tmp_path: Path) -> None:
    digits = load_data("digits")
    data = merge([digits, load_data(str(put(tmp_path / "more", {"7/1.png": 1, "3/1.png": 2})))])
    split = make_split(data, scan(data).facts, {})
    assert read_split(write_split(split, data, {}), data)[0].test.tolist() == split.test.tolist()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b"cat/1.png,cat",
            b"cat/9.png,cat",
            r"image 2 is cat/9\.png, cat",
        ),
        (b"cat/1.png,cat", b"cat/1.png,dog", r"image 2 is cat/1\.png, dog"),
        (b"cat/1.png,cat,", b"cat/1.png,cat,holdout ", "holdout"),
        (b"cat/1.png,cat", b"cat/1.png", "image 2"),
        (b"cat/9.png", b"", "image 10"),
    ],
)
def test_a_split_file_of_other_data_is_refused(old: bytes, new: bytes, message: str) -> None:
    """It would mix train and test images."""
    data, facts = images(toys("cat", 10))
    content = write_split(make_split(data, facts, {}), data, {})
    with pytest.raises(DataError, match=message):
        read_split(content.replace(old, new), data)
    with pytest.raises(DataError, match="10 images, but toys has 11"):
        read_split(content, images(toys("cat", 11))[0])
