"""Aliases: append-only histories that racing movers can not damage."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_factory import publish_plain, snapshot
from store_processes import Workers, promote_often

from model_store.aliases import MAX_EVENT_BYTES, Aliases, AliasEvent, rollback_history
from model_store.errors import AliasError, InvalidNameError
from model_store.manifest import now
from model_store.store import ModelStore

MOVERS = 8
MOVES = 10


@pytest.fixture
def aliases(tmp_path: Path) -> Aliases:
    """The aliases of a model that has none yet."""
    return Aliases("m", tmp_path)


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Where the events of the alias `production` lie."""
    return tmp_path / "aliases" / "production"


def versions(aliases: Aliases, alias: str = "production") -> list[int]:
    return [event.version for event in aliases.history(alias)]


def test_racing_movers_lose_no_event(store: ModelStore, root: Path) -> None:
    """Eight processes move one alias at once, and the history has every event."""
    for _ in range(2):
        publish_plain(store)
    with Workers(MOVERS) as movers:
        movers.call(
            promote_often,
            [(root, "m", [1, 2] * (MOVES // 2), f"mover {place}") for place in range(MOVERS)],
        )
    history = store.aliases("m").history("production")
    expected = [f"mover {place}, step {step}" for place in range(MOVERS) for step in range(MOVES)]
    assert sorted(event.why for event in history) == sorted(expected)
    for place in range(MOVERS):  # and each mover's events stand in the order in which it made them
        assert [
            event.why for event in history if event.why.startswith(f"mover {place},")
        ] == expected[place * MOVES :][:MOVES]
    names = sorted(path.name for path in (root / "m" / "aliases" / "production").iterdir())
    assert names == [f"{number:08d}.json" for number in range(1, MOVERS * MOVES + 1)]


def test_promoting_appends_an_event(aliases: Aliases) -> None:
    """It holds action, version, time, user and reason."""
    before = now()
    event = aliases.promote("production", 7, why="better", by="ada")
    assert (event.action, event.version, event.by, event.why) == ("promote", 7, "ada", "better")
    assert before <= event.when <= now()
    assert aliases.version("production") == 7
    assert aliases.history("production") == [event]
    assert aliases.names() == ["production"]


def test_someone_is_always_named(aliases: Aliases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if that user has no name."""
    monkeypatch.setenv("LOGNAME", "grace")
    assert aliases.promote("production", 1).by == "grace"
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(
        "os.getuid", lambda: 2**31 - 7
    )  # as in a container that runs under any number
    assert aliases.promote("production", 2).by


def test_an_alias_that_never_was_points_nowhere(aliases: Aliases, tmp_path: Path) -> None:
    """Asking for an alias that does not exist gives nothing and writes nothing."""
    assert aliases.names() == []
    assert aliases.version("production") is None
    assert aliases.history("production") == []
    assert snapshot(tmp_path) == {}


def test_rollbacks_walk_back_through_the_promotions(aliases: Aliases) -> None:
    """After a new promotion, a rollback undoes only that one."""
    for version in (1, 2, 3):
        aliases.promote("production", version)
    assert aliases.rollback("production").version == 2
    assert aliases.rollback("production").version == 1
    aliases.promote("production", 4)
    rolled_back = aliases.rollback("production", why="slow", by="ada")
    assert (rolled_back.action, rolled_back.version, rolled_back.why, rolled_back.by) == (
        "rollback",
        1,
        "slow",
        "ada",
    )
    assert versions(aliases) == [1, 2, 3, 2, 1, 4, 1]


def test_a_promotion_to_the_same_version_is_nothing_to_roll_back(aliases: Aliases) -> None:
    """Promoting a version twice in a row counts once when rolling back."""
    for version in (1, 2, 2):
        aliases.promote("production", version)
    assert aliases.rollback("production").version == 1


@pytest.mark.parametrize("promoted", [[], [1], [1, 1]])
def test_a_rollback_with_nothing_before_is_refused(
    promoted: list[int], aliases: Aliases, tmp_path: Path
) -> None:
    """AliasError, and nothing is written."""
    for version in promoted:
        aliases.promote("production", version)
    before = snapshot(tmp_path)
    with pytest.raises(AliasError, match="production"):
        aliases.rollback("production")
    assert snapshot(tmp_path) == before


def test_rolling_back_to_the_end_is_refused(aliases: Aliases) -> None:
    """The first promotion can not be rolled back."""
    aliases.promote("production", 1)
    aliases.promote("production", 2)
    aliases.rollback("production")
    with pytest.raises(AliasError, match="production"):
        aliases.rollback("production")
    assert versions(aliases) == [1, 2, 1]


def test_aliases_do_not_touch_each_other(aliases: Aliases) -> None:
    """Each alias has a history of its own."""
    aliases.promote("production", 1)
    aliases.promote("canary", 2)
    assert (aliases.names(), versions(aliases), versions(aliases, "canary")) == (
        ["canary", "production"],
        [1],
        [2],
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text(json.dumps(json.loads(path.read_bytes()) | {"version": 0})),
        lambda path: path.write_text(json.dumps(json.loads(path.read_bytes()) | {"surprise": 1})),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["empty", "cut", "no text", "version 0", "unknown field", "a folder"],
)
def test_a_damaged_event_is_an_error(damage: object, aliases: Aliases, events: Path) -> None:
    """It is never skipped, or the alias would move silently."""
    aliases.promote("production", 1)
    aliases.promote("production", 2)
    assert callable(damage)
    damage(events / "00000002.json")
    for read in (aliases.history, aliases.version, aliases.rollback):
        with pytest.raises(AliasError, match="m: event 2 of alias production is damaged"):
            read("production")


@pytest.mark.parametrize("place", ["aliases", "aliases/production"])
def test_a_file_where_a_folder_belongs_is_an_error(
    place: str, aliases: Aliases, tmp_path: Path
) -> None:
    """It is an error, not a missing alias."""
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    with pytest.raises(AliasError):
        aliases.version("production")
    with pytest.raises(AliasError):
        aliases.promote("production", 1)


@pytest.mark.parametrize(
    "name",
    [
        ".draft-00ff",
        "1.json",
        "000000001.json",
        "00000002.txt",
        "notes",
        "\uff10\uff10\uff10\uff10\uff10\uff10\uff10\uff12.json",
    ],
)
def test_files_that_are_no_events_are_ignored(name: str, aliases: Aliases, events: Path) -> None:
    """Drafts of killed movers and files with other names do not count as events."""
    aliases.promote("production", 1)
    (events / name).write_bytes(b"{")
    assert versions(aliases) == [1]
    aliases.promote("production", 2)
    assert versions(aliases) == [1, 2]


@pytest.mark.parametrize("name", [".hidden", "a b", "x" * 129])
def test_folders_that_are_no_aliases_are_ignored(name: str, aliases: Aliases, events: Path) -> None:
    """Other directories are not listed."""
    aliases.promote("production", 1)
    (events.parent / name).mkdir()
    assert [aliases.version(alias) for alias in aliases.names()] == [1]


@pytest.mark.parametrize("alias", ["", "..", ".hidden", "a/b", "a\n", "x" * 129])
def test_a_bad_alias_name_is_refused(alias: str, aliases: Aliases, tmp_path: Path) -> None:
    """A name that is not canonical is refused in reading and in moving, and nothing is written."""
    for refused in (
        aliases.version,
        aliases.history,
        aliases.rollback,
        lambda name: aliases.promote(name, 1),
    ):
        with pytest.raises(InvalidNameError):
            refused(alias)
    assert snapshot(tmp_path) == {}


@given(st.lists(st.one_of(st.integers(1, 4), st.just("rollback")), max_size=30))
def test_the_standing_promotions_are_a_stack(moves: list[int | str]) -> None:
    """For any sequence of moves."""
    history: list[AliasEvent] = []
    stack: list[int] = []
    for move in moves:
        if isinstance(move, int):
            history.append(AliasEvent(action="promote", version=move, when=now(), by="test"))
            stack += [move] if stack[-1:] != [move] else []
        elif len(stack) > 1:
            stack.pop()
            history.append(AliasEvent(action="rollback", version=stack[-1], when=now(), by="test"))
        assert rollback_history(history) == stack


def test_stamp_changes_with_every_move_and_with_the_directory(
    aliases: Aliases, events: Path
) -> None:
    """Equal tokens mean an equal history, also after a model was deleted and created again."""
    tokens = [aliases.change_token("production")]
    for version in (1, 2, 2):
        aliases.promote("production", version)
        tokens.append(aliases.change_token("production"))
        assert aliases.change_token("production") == tokens[-1]
    aliases.promote("canary", 1)
    assert aliases.change_token("production") == tokens[-1]
    events.rename(events.with_name("old"))
    for version in (3, 3, 3):
        aliases.promote("production", version)
    tokens.append(aliases.change_token("production"))
    assert len(set(tokens)) == len(tokens)


def test_previous_is_where_a_rollback_would_lead(aliases: Aliases) -> None:
    """A caller can inspect the version before rolling back to it."""
    for version in (1, 2, 3):
        aliases.promote("production", version)
    assert aliases.previous("production") == 2
    assert (
        aliases.previous("production", among=[1, 3])
        == aliases.rollback("production", among=[1, 3]).version
        == 1
    )
    with pytest.raises(AliasError, match="production"):
        aliases.previous("production")


def test_rollback_that_was_decided_before_another_moved_the_alias_is_refused(
    aliases: Aliases,
) -> None:
    """It does not undo the move of another process, and writes nothing."""
    for version in (1, 2, 3):
        aliases.promote("production", version)
    decided = aliases.previous("production")
    aliases.rollback("production")
    with pytest.raises(AliasError, match="version 1, not to 2"):
        aliases.rollback("production", to=decided)
    assert versions(aliases) == [1, 2, 3, 2]
    assert aliases.rollback("production", to=1).version == 1


def link_to_a_copy(event: Path) -> None:
    copy = event.with_name("copy")
    event.rename(copy)
    event.symlink_to(copy)


def pipe(event: Path) -> None:
    event.unlink()
    os.mkfifo(event)


def endless_device(event: Path) -> None:
    event.unlink()
    event.symlink_to("/dev/zero")


def padded(event: Path) -> None:
    event.write_bytes(event.read_bytes().ljust(MAX_EVENT_BYTES + 1))


def directory(event: Path) -> None:
    event.unlink()
    event.mkdir()


@pytest.mark.parametrize("damage", [link_to_a_copy, pipe, endless_device, padded, directory])
def test_only_regular_small_events_are_read(
    aliases: Aliases, events: Path, damage: Callable[[Path], object]
) -> None:
    """Links, pipes, devices, directories and large files are damaged events that block nothing."""
    aliases.promote("production", 1)
    damage(events / "00000001.json")
    with pytest.raises(AliasError, match="event 1 of alias production is damaged"):
        aliases.version("production")
    with pytest.raises(AliasError):
        aliases.promote("production", 2)


@pytest.mark.parametrize("place", ["aliases", "aliases/production"])
def test_linked_directories_of_aliases_are_rejected(
    aliases: Aliases, tmp_path: Path, place: str
) -> None:
    """Events in another place are neither read nor written."""
    aliases.promote("production", 1)
    directory, elsewhere = tmp_path / place, tmp_path / "elsewhere"
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere)
    before = snapshot(elsewhere)
    with pytest.raises(AliasError, match="symbolic link"):
        aliases.version("production")
    with pytest.raises(AliasError):
        aliases.promote("production", 2)
    assert snapshot(elsewhere) == before


def test_reason_that_would_make_an_event_unreadable_is_rejected(
    aliases: Aliases, events: Path
) -> None:
    """The alias stays where it was."""
    aliases.promote("production", 1)
    with pytest.raises(AliasError, match="shorter"):
        aliases.promote("production", 2, why="x" * MAX_EVENT_BYTES)
    assert versions(aliases) == [1]
    assert len(list(events.iterdir())) == 1
