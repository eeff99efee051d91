"""The desired versions of a model, by its versions and the moves of its aliases."""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from colour_model import MODEL, make_store, publish

from model_store.errors import AliasError
from model_store.store import ModelStore
from service.versions.desired_versions import DEFAULT_POLICY, DesiredVersions, DesiredVersionsReader

ROLLBACK = 0


def read_desired(store: ModelStore, model: str) -> DesiredVersions:
    return DesiredVersionsReader(store).read(model, store.contents()[model])


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([], (3, 2, 1)),
        ([2], (2,)),
        ([1, 3], (3, 1)),
        ([1, 2, ROLLBACK], (1,)),
        ([1, 2, ROLLBACK, 3], (3, 1)),
        ([1, 2, 1], (1, 2)),
        ([2, 2], (2,)),
    ],
)
def test_candidates_follow_the_alias(
    store: ModelStore, moves: list[int], expected: tuple[int, ...]
) -> None:
    """Without an alias all versions are candidates, else those that rollbacks would lead to."""
    for _ in range(3):
        publish(store)
    for move in moves:
        if move == ROLLBACK:
            store.rollback(MODEL)
        else:
            store.promote(MODEL, move)
    desired = read_desired(store, MODEL)
    assert desired.candidates == expected
    assert desired.versions == (1, 2, 3)


def test_deleted_version_is_desired_only_if_the_alias_points_to_it(store: ModelStore) -> None:
    """Of the deleted versions, only the one that production names stays a candidate."""
    for _ in range(3):
        publish(store)
    for number in (1, 2, 3):
        store.promote(MODEL, number)
    for number in (1, 3):
        shutil.rmtree(store.root / MODEL / str(number))
    assert read_desired(store, MODEL).candidates == (3, 2)


def test_desired_versions_change_with_versions_and_moves(store: ModelStore) -> None:
    """A new version and every move of an alias change the desired versions."""
    publish(store)
    readings = [read_desired(store, MODEL)]
    publish(store)
    readings.append(read_desired(store, MODEL))
    for _ in range(2):
        store.promote(MODEL, 2)
        readings.append(read_desired(store, MODEL))
    assert len(set(readings)) == 4
    assert read_desired(store, MODEL) == readings[-1]


def test_layers_are_distinguished(store: ModelStore) -> None:
    """The published version 1 and the built-in version 1 are different desired versions."""
    builtin = make_store(store.root.parent / "builtin")
    publish(builtin)
    layered = ModelStore(store.root, builtin.root)
    before = read_desired(layered, MODEL)
    publish(layered)
    after = read_desired(layered, MODEL)
    assert (before.layer, after.layer) == ("built-in", "published")
    assert before.candidates == after.candidates
    assert before != after


def test_damaged_alias_is_an_error(store: ModelStore) -> None:
    """A damaged alias raises AliasError instead of selecting the newest version."""
    publish(store)
    store.promote(MODEL, 1)
    (store.root / MODEL / "aliases" / "production" / "00000001.json").write_text("{")
    with pytest.raises(AliasError):
        read_desired(store, MODEL)


def test_promotions_are_counted_while_the_cache_is_trimmed(store: ModelStore) -> None:
    """An operation counts them in its own thread while the registry is reconciled."""
    reader, names = DesiredVersionsReader(store), [f"m{number}" for number in range(2000)]

    def count(model: str) -> int:
        return reader.promotions(model, 1, DEFAULT_POLICY)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as executor:
            counts = executor.map(count, names)
            last = executor.submit(count, names[0])
            while not last.done():
                reader.keep_only(names)
    finally:
        sys.setswitchinterval(interval)
    assert set(counts) == {0}
