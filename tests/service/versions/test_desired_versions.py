"""What is wished of a model, by its versions and the moves of its alias."""

import shutil

import pytest
from colour_model import MODEL, make_store, publish

from model_store.errors import AliasError
from model_store.store import ModelStore
from service.versions.desired_versions import DesiredVersions, DesiredVersionsReader

ROLLBACK = 0


def read_wish(store: ModelStore, model: str) -> DesiredVersions:
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
    """Without an alias every version counts, newest first; with one those that it named and was not rolled back from."""
    for _ in range(3):
        publish(store)
    for move in moves:
        if move == ROLLBACK:
            store.rollback(MODEL)
        else:
            store.promote(MODEL, move)
    wish = read_wish(store, MODEL)
    assert wish.candidates == expected
    assert wish.versions == (1, 2, 3)


def test_version_that_is_gone_is_wished_only_where_the_alias_points(store: ModelStore) -> None:
    """Of versions that were deleted the one that production names stays in the wish, so that its error is seen."""
    for _ in range(3):
        publish(store)
    for number in (1, 2, 3):
        store.promote(MODEL, number)
    for number in (1, 3):
        shutil.rmtree(store.root / MODEL / str(number))
    assert read_wish(store, MODEL).candidates == (3, 2)


def test_wish_is_the_same_until_something_moves(store: ModelStore) -> None:
    """Reading twice gives equal wishes; a version, a move, and a promotion of the same version again each make another."""
    publish(store)
    wishes = [read_wish(store, MODEL)]
    publish(store)
    wishes.append(read_wish(store, MODEL))
    for _ in range(2):
        store.promote(MODEL, 2)
        wishes.append(read_wish(store, MODEL))
    assert len(set(wishes)) == 4
    assert read_wish(store, MODEL) == wishes[-1]


def test_layers_tell_equal_numbers_apart(store: ModelStore) -> None:
    """Version 1 as it was published is not the version 1 that ships with the project."""
    builtin = make_store(store.root.parent / "builtin")
    publish(builtin)
    layered = ModelStore(store.root, builtin.root)
    before = read_wish(layered, MODEL)
    publish(layered)
    after = read_wish(layered, MODEL)
    assert (before.layer, after.layer) == ("built-in", "published")
    assert before.candidates == after.candidates
    assert before != after


def test_wish_that_can_not_be_read_is_an_error(store: ModelStore) -> None:
    """A damaged alias is no wish for the newest version."""
    publish(store)
    store.promote(MODEL, 1)
    (store.root / MODEL / "aliases" / "production" / "00000001.json").write_text("{")
    with pytest.raises(AliasError):
        read_wish(store, MODEL)
