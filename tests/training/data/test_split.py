"""Splits: stratified, disjoint, groups whole, given ones kept, the same for the same pictures."""

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
    """A set without pixels: (what it shows, label, given split) by row. Rows that show the same are copies."""
    names = tuple(sorted({label for _, label, _ in rows}))
    paths: LazyColumn[str] = [f"{label}/{number}.png" for number, (_, label, _) in enumerate(rows)]
    labels = np.array([names.index(label) for _, label, _ in rows])
    given = np.array([split for _, _, split in rows], np.int8)
    data = ImageSet("toys", "", "", paths, paths, [b""] * len(rows), labels, names, given, "")
    return data, [ImageFacts(digest=shown) for shown, _, _ in rows]


def toys(label: str, count: int, split: int = FREE, first: int = 0) -> list[tuple[str, str, int]]:
    return [(f"{label}-{number}", label, split) for number in range(first, first + count)]


def sizes(split: Split) -> list[int]:
    return [len(part) for part in vars(split).values()]


def shown(split: Split, facts: Facts) -> dict[str, set[str]]:
    return {name: {facts[index].digest for index in part} for name, part in vars(split).items()}


def test_a_split_is_stratified_disjoint_complete_and_repeatable() -> None:
    """70, 10 and 20 % of each class, no image twice, another seed another split."""
    data, facts = images(toys("cat", 100) + toys("dog", 50))
    split, again = make_split(data, facts, {}), make_split(data, facts, {})
    assert sizes(split) == [105, 15, 30]
    assert sorted(np.concatenate(list(vars(split).values())).tolist()) == list(range(150))
    for part in vars(split).values():
        assert np.bincount(data.labels[part]).tolist() == [len(part) * 2 // 3, len(part) // 3]
        assert part.dtype == np.int64
        assert np.all(np.diff(part) > 0)
    assert (
        shown(split, facts)
        == shown(again, facts)
        != shown(make_split(data, facts, {}, seed=1), facts)
    )


def test_the_digits_are_split_as_ever() -> None:
    """On every machine and with every library: no generator of random numbers is asked."""
    digits = load_data("digits")
    split = make_split(digits, scan(digits).facts, {})
    assert sizes(split) == [1259, 179, 359]
    assert split.test[:4].tolist() == [1, 4, 7, 18]


def test_order_and_names_do_not_matter() -> None:
    """Only what the pictures show."""
    rows = toys("cat", 40) + toys("dog", 30)
    data, facts = images(rows)
    other, other_facts = images(
        [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    )
    assert shown(make_split(data, facts, {}), facts) == shown(
        make_split(other, other_facts, {}), other_facts
    )


def test_added_pictures_hardly_move_the_others() -> None:
    """After a tenth more, few images changed their part, and what was drawn is still in proportion."""
    data, facts = images(toys("cat", 500))
    more, more_facts = images(toys("cat", 550))
    before, after = (
        shown(make_split(data, facts, {}), facts),
        shown(make_split(more, more_facts, {}), more_facts),
    )
    stayed = sum(len(before[name] & after[name]) for name in before)
    assert stayed > 480
    assert sizes(make_split(more, more_facts, {})) == [385, 55, 110]


def test_copies_are_never_torn_apart() -> None:
    """A copy in train of an image in test would be an answer learned by heart; the proportions hold all the same."""
    rows = [(f"cat-{number}", "cat", FREE) for number in range(40) for _ in range(1 + number % 4)]
    data, facts = images(rows)
    for seed in range(20):
        split = make_split(data, facts, {}, seed)
        parts = list(shown(split, facts).values())
        assert sum(map(len, parts)) == 40
        assert sizes(split) == [70, 10, 20]


@pytest.mark.parametrize("counts", [(1, 1, 1), (1, 1, 8), (5, 5, 5), (1, 50, 1, 1)])
def test_a_class_with_three_groups_is_in_every_part(counts: tuple[int, ...]) -> None:
    """However small it is, and however many copies its images have."""
    data, facts = images(
        [
            (f"cat-{number}", "cat", FREE)
            for number, count in enumerate(counts)
            for _ in range(count)
        ]
    )
    for seed in range(10):
        assert min(sizes(make_split(data, facts, {}, seed))) >= 1


def test_a_class_with_fewer_trains() -> None:
    """There is nothing to hold out; the check refuses it."""
    data, facts = images(toys("cat", 2))
    assert sizes(make_split(data, facts, {})) == [2, 0, 0]


def test_what_is_left_out_is_in_no_part() -> None:
    """It does not count for the proportions either."""
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
def test_given_splits_are_kept_and_what_is_missing_comes_from_train(
    given: dict[int, int], expected: list[int]
) -> None:
    """An official test split stays as it is; images without a split are drawn for all three."""
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
    """Where test is given, new pictures are drawn for it, but not those that train has."""
    data, facts = images(
        toys("cat", 50, TRAIN)
        + toys("cat", 20, FREE)
        + toys("cat", 9, TEST, 90)
        + toys("cat", 9, VALIDATION, 80)
    )
    split = make_split(data, facts, {})
    assert sizes(split) == [70, 9, 9]


def test_what_an_older_model_saw_is_never_tested() -> None:
    """With the same seed the old test images stay in test, and the new ones are drawn in proportion."""
    data, facts = images(toys("cat", 1000))
    old = make_split(data, facts, {})
    seen = shown(old, facts)["train"]
    more, more_facts = images(toys("cat", 1100))
    new = shown(make_split(more, more_facts, {}, never_test=seen), more_facts)
    assert not seen & (new["test"] | new["validation"])
    assert len(new["test"] & shown(old, facts)["test"]) > 190
    added = {f"cat-{number}" for number in range(1000, 1100)}
    assert [len(added & part) for part in new.values()] == pytest.approx([70, 10, 20], abs=12)


def test_another_seed_tests_less_rather_than_what_was_seen() -> None:
    """And where nothing else is there, a class has no test at all."""
    data, facts = images(toys("cat", 100) + toys("dog", 30))
    seen = shown(make_split(data, facts, {}), facts)["train"] | {
        f"dog-{number}" for number in range(30)
    }
    new = shown(make_split(data, facts, {}, seed=5, never_test=seen), facts)
    assert not seen & (new["test"] | new["validation"])
    assert new["test"]
    assert new["validation"]


def test_what_an_older_model_saw_chooses_the_epoch_where_nothing_else_can() -> None:
    """As where it learned the validation split too, and is trained once more on the same pictures."""
    data, facts = images(toys("cat", 100) + toys("dog", 30))
    old = shown(make_split(data, facts, {}), facts)
    new = shown(make_split(data, facts, {}, never_test=old["train"] | old["validation"]), facts)
    assert new == old


def test_folds_test_every_image_once() -> None:
    """Test parts that cover the data, each disjoint from its own train and validation; copies stay together."""
    data, facts = images(toys("cat", 53) * 2 + toys("dog", 27))
    folds = stratified_folds(data, facts, {0: "unreadable"}, 5)
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(1, 133))
    for fold in folds:
        assert sum(sizes(fold)) == len(np.unique(np.concatenate(list(vars(fold).values())))) == 132
        assert sum(map(len, shown(fold, facts).values())) == 80
        assert len(fold.test) == pytest.approx(132 / 5, abs=2)
        assert sorted(set(data.labels[fold.validation].tolist())) == [0, 1]
    assert len({tuple(sorted(shown(fold, facts)["validation"])) for fold in folds}) == 5


def test_too_few_images_for_the_folds_are_refused() -> None:
    """The class is named."""
    data, facts = images(toys("cat", 9) + toys("dog", 4) * 3)
    with pytest.raises(DataError, match="class dog has 4 different images, too few for 5 folds"):
        stratified_folds(data, facts, {}, 5)


def test_a_split_is_a_file_that_is_data_too(tmp_path: Path) -> None:
    """Read back it is the same; given as --data it trains on the same images again."""
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
    found, reasons = read_split(content, data)
    assert reasons == left_out
    assert all(
        np.array_equal(a, b)
        for a, b in zip(vars(found).values(), vars(split).values(), strict=True)
    )
    again = load_data(str(tmp_path / "run" / "split.csv"))
    assert again.class_names == data.class_names
    assert again.given_splits[split.test].tolist() == [TEST] * len(split.test)
    assert again.given_splits[3] == FREE
    same = make_split(again, facts, left_out)
    assert all(
        np.array_equal(a, b) for a, b in zip(vars(same).values(), vars(split).values(), strict=True)
    )


def test_the_file_of_merged_and_known_sets_can_be_read_back(tmp_path: Path) -> None:
    """Digits are no files, and merged sets have paths of their own."""
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
            r"image 2 is cat/9.png, cat there and 1.png, cat here",
        ),
        (b"cat/1.png,cat", b"cat/1.png,dog", r"image 2 is cat/1.png, dog there"),
        (b"cat/1.png,cat,", b"cat/1.png,cat,holdout ", "into 'holdout"),
        (b"cat/1.png,cat", b"cat/1.png", "image 2"),
        (b"cat/9.png", b"", "image 10"),
    ],
)
def test_a_file_of_other_data_is_refused(old: bytes, new: bytes, message: str) -> None:
    """A position that means another image would mix train and test."""
    data, facts = images(toys("cat", 10))
    content = write_split(make_split(data, facts, {}), data, {})
    with pytest.raises(DataError, match=message):
        read_split(content.replace(old, new), data)
    with pytest.raises(DataError, match="the split is of 10 images, but toys has 11"):
        read_split(content, images(toys("cat", 11))[0])
