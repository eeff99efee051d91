"""Writers killed with SIGKILL before every one of their file operations in turn."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_factory import publish_plain
from store_processes import Workers, file_operations, kill_before, promote, prune, publish

from model_store.store import ModelStore

PLAUSIBLE_OPERATIONS = 15


@pytest.fixture(scope="module")
def victims() -> Iterator[Workers]:
    """One process that forks those which are killed."""
    with Workers(1) as workers:
        yield workers


def killed_stores(
    victims: Workers,
    tmp_path: Path,
    function: Callable[..., Any],
    *arguments: Any,
    versions: int,
    production: int | None = None,
) -> Iterator[tuple[ModelStore, set[str]]]:
    """For each file operation: a store in which the call was killed before it."""
    template = tmp_path / "template"
    template.mkdir()
    store = ModelStore(template, builtin_root=None)
    for _ in range(versions):
        publish_plain(store)
    if production:
        store.promote("m", production)
    counted, warm_up = (
        shutil.copytree(template, tmp_path / name) for name in ("counted", "warm-up")
    )
    (operations,) = victims.call(
        file_operations, [(function, (counted, *arguments), (warm_up, *arguments))]
    )
    assert len(operations) > PLAUSIBLE_OPERATIONS, operations
    for number in range(len(operations)):
        root = shutil.copytree(template, tmp_path / f"killed-{number}")
        assert victims.call(kill_before, [(number, function, (root, *arguments))]) == [True]
        yield ModelStore(root, builtin_root=None), set(operations[:number])


def test_a_killed_publisher_leaves_the_store_as_it_was(victims: Workers, tmp_path: Path) -> None:
    """The old version stays, a new one is complete or absent, and `prune` cleans up."""
    seen = set()
    for store, done in killed_stores(victims, tmp_path, publish, "m", versions=1):
        versions = store.versions("m")
        seen.add(tuple(versions))
        assert versions == ([1, 2] if "rename" in done else [1])
        assert store.models() == ["m"]
        for version in versions:
            store.open("m", version).close()

        assert publish_plain(store) == versions[-1] + 1
        store.prune("m", keep=5)
        assert sorted(path.name for path in (store.root / "m").iterdir()) == [
            str(number) for number in store.versions("m")
        ]
    assert seen == {(1,), (1, 2)}


def test_a_killed_first_publisher_leaves_an_empty_store(victims: Workers, tmp_path: Path) -> None:
    """The model is absent or has a complete version."""
    for store, done in killed_stores(victims, tmp_path, publish, "m", versions=0):
        assert store.models() == (["m"] if "rename" in done else [])
        assert publish_plain(store) == (2 if "rename" in done else 1)
        store.prune("m", keep=5)
        assert sorted(path.name for path in (store.root / "m").iterdir()) == [
            str(number) for number in store.versions("m")
        ]


def test_a_killed_mover_leaves_the_old_event_or_the_new_one(
    victims: Workers, tmp_path: Path
) -> None:
    """The history ends with the old event or with the complete new one."""
    seen = set()
    for store, done in killed_stores(
        victims, tmp_path, promote, "m", 2, "killed", versions=2, production=1
    ):
        history = [event.version for event in store.aliases("m").history("production")]
        seen.add(tuple(history))
        assert history == ([1, 2] if "link" in done else [1])
        assert store.aliases("m").names() == ["production"]

        store.promote("m", 2, why="again")
        assert store.resolve("m") == 2
        assert store.rollback("m") == 1
    assert seen == {(1,), (1, 2)}


def test_a_killed_first_mover_leaves_no_half_alias(victims: Workers, tmp_path: Path) -> None:
    """The alias points nowhere or to its version."""
    for store, done in killed_stores(victims, tmp_path, promote, "m", 1, "killed", versions=2):
        assert store.aliases("m").version("production") == (1 if "link" in done else None)
        assert store.resolve("m") == (1 if "link" in done else 2)
        store.promote("m", 1, why="again")
        assert store.resolve("m") == 1


def test_a_killed_prune_leaves_whole_versions(victims: Workers, tmp_path: Path) -> None:
    """Only complete versions are listed, and the next prune finishes the work."""
    for store, _ in killed_stores(victims, tmp_path, prune, "m", 1, versions=3):
        for version in store.versions("m"):
            store.open("m", version).close()
        assert store.versions("m")[-1] == 3

        store.prune("m", keep=1)
        assert [path.name for path in (store.root / "m").iterdir()] == ["3"]


@pytest.mark.parametrize(
    ("call", "claim", "synced_before"),
    [
        (
            (publish, "m"),
            "rename",
            5,
        ),  # two files, the manifest, and the two folders that hold them
        ((promote, "m", 2, "why"), "link", 1),  # the draft of the event
    ],
    ids=["publish", "promote"],
)
def test_everything_is_on_the_disk_before_it_is_seen(
    call: tuple[Any, ...], claim: str, synced_before: int, victims: Workers, tmp_path: Path
) -> None:
    """Data is synced before it becomes visible, and the directory after it."""
    function, *arguments = call
    template = tmp_path / "template"
    store = ModelStore(template, builtin_root=None)
    publish_plain(store)
    publish_plain(store)
    store.promote("m", 1)
    warm_up = shutil.copytree(template, tmp_path / "warm-up")
    (operations,) = victims.call(
        file_operations, [(function, (template, *arguments), (warm_up, *arguments))]
    )
    place = operations.index(claim)
    assert operations.count(claim) == 1
    assert operations[:place].count("fsync") == synced_before
    assert operations[place:].count("fsync") == 1
    assert "write" not in operations[place:]
