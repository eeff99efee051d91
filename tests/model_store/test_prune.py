"""Pruning: what is deleted, what stays and why."""

import os
import threading
from pathlib import Path

import pytest
from store_factory import PLAIN_FILES, plain_fields, publish_plain, rewrite_manifest, snapshot
from store_processes import Workers, close_all, open_and_keep

from model_store.errors import (
    AliasError,
)
from model_store.store import ModelStore


class TestPrune:
    @pytest.fixture
    def five(self, store: ModelStore) -> ModelStore:
        """A store with five versions of one model."""
        for _ in range(5):
            publish_plain(store)
        return store

    def test_the_newest_stay(self, five: ModelStore, root: Path) -> None:
        """The others are deleted from disk, and the report lists both."""
        report = five.prune("m", keep=2)
        assert report.deleted == (1, 2, 3)
        assert report.kept == {4: "among the latest 2", 5: "among the latest 2"}
        assert sorted(os.listdir(root / "m")) == ["4", "5"]

    def test_three_versions_stay_unless_told_otherwise(self, five: ModelStore) -> None:
        """Of each model."""
        assert five.prune("m").deleted == (1, 2)

    @pytest.mark.parametrize(
        ("keep", "deleted"), [(1, (1, 2, 3)), (2, (1, 2, 3)), (3, (1, 2)), (4, (1,))]
    )
    def test_an_alias_can_always_be_rolled_back_once(
        self, five: ModelStore, keep: int, deleted: tuple[int, ...]
    ) -> None:
        """More often if more versions are kept."""
        for version in (1, 2, 3, 4, 5):
            five.promote("m", version)
        assert five.prune("m", keep=keep).deleted == deleted
        assert five.rollback("m") == 4

    def test_what_an_alias_names_stays(self, five: ModelStore) -> None:
        """Each alias's version is kept, however old."""
        five.promote("m", 1)
        five.promote("m", 3, "canary")
        assert five.prune("m", keep=1).deleted == (2, 4)
        assert (five.resolve("m"), five.resolve("m", "canary"), five.versions("m")) == (
            1,
            3,
            [1, 3, 5],
        )

    def test_what_an_alias_could_be_rolled_back_to_stays(self, five: ModelStore) -> None:
        """The latest `keep` targets of rollbacks are kept."""
        for version in (1, 2, 3):
            five.promote("m", version)
        report = five.prune("m", keep=2)
        assert report.deleted == (1,)
        assert "production" in report.kept[2]
        assert five.rollback("m") == 2
        five.open("m", 2).close()

    def test_what_was_rolled_back_from_is_not_kept_for_it(self, five: ModelStore) -> None:
        """A promotion that was undone protects its version no longer."""
        for version in (1, 3):
            five.promote("m", version)
        five.rollback("m")
        assert five.prune("m", keep=1).deleted == (2, 3, 4)

    def test_what_another_process_reads_stays(self, five: ModelStore) -> None:
        """Until the reader in another process closes it."""
        with Workers(2) as readers:
            readers.call(open_and_keep, [(five.root, "m", 1), (five.root, "m", 2)])
            report = five.prune("m", keep=1)
            assert report.deleted == (3, 4)
            assert (report.kept[1], report.kept[2]) == (
                "a process has it open",
                "a process has it open",
            )
            readers.call(close_all, [(), ()])
            assert five.prune("m", keep=1).deleted == (1, 2)

    def test_what_a_dead_process_had_open_goes(self, five: ModelStore) -> None:
        """A reader that ended without closing its version does not keep it."""
        with Workers(1) as readers:
            readers.call(open_and_keep, [(five.root, "m", 1)])
        assert five.prune("m", keep=1).deleted == (1, 2, 3, 4)

    def test_a_dry_run_deletes_nothing(self, five: ModelStore, root: Path) -> None:
        """A dry run reports what would go, leftovers too, and touches nothing."""
        (root / "m" / ".staging-dead").mkdir()
        before = snapshot(root)
        report = five.prune("m", keep=2, dry_run=True)
        assert (report.deleted, report.leftovers) == ((1, 2, 3), (".staging-dead",))
        assert snapshot(root) == before

    def test_the_rest_of_dead_processes_goes(self, five: ModelStore, root: Path) -> None:
        """Other hidden directories are not deleted."""
        for name in (".staging-dead", ".doomed-1-42", ".git"):
            (root / "m" / name / "folder").mkdir(parents=True)
        assert five.prune("m", keep=5).leftovers == (".doomed-1-42", ".staging-dead")
        assert sorted(os.listdir(root / "m")) == [".git", "1", "2", "3", "4", "5"]

    def test_a_publish_under_way_is_left_alone(self, five: ModelStore, tmp_path: Path) -> None:
        """The staged files stay, and the publication succeeds."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        published: list[int] = []
        publisher = threading.Thread(
            target=lambda: published.append(
                five.publish("m", plain_fields(), {**PLAIN_FILES, "model.onnx": pipe})
            )
        )
        publisher.start()
        with open(pipe, "wb") as writer:  # opens when the publisher has come to read the model
            assert five.prune("m", keep=5).leftovers == ()
            writer.write(b"weights")
        publisher.join()
        assert published == [6]
        five.open("m", 6).close()

    def test_a_damaged_version_can_be_pruned(self, five: ModelStore, root: Path) -> None:
        """Damage does not keep an old version, and none of a newer one stops the prune."""
        rewrite_manifest(root / "m" / "1", {"schema_version": 99})
        rewrite_manifest(root / "m" / "5", {"schema_version": 99})
        assert five.prune("m", keep=1).deleted == (1, 2, 3, 4)

    def test_a_damaged_alias_stops_the_prune(self, five: ModelStore, root: Path) -> None:
        """Nobody knows which versions it needs."""
        five.promote("m", 1)
        (root / "m/aliases/production/00000001.json").write_bytes(b"")
        with pytest.raises(AliasError, match="damaged"):
            five.prune("m", keep=1)
        assert five.versions("m") == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("keep", [0, -1])
    def test_the_newest_can_not_be_given_up(self, keep: int, five: ModelStore) -> None:
        """Keeping nothing is a mistake of the caller's."""
        with pytest.raises(ValueError, match="keep must be at least 1"):
            five.prune("m", keep=keep)
        assert five.versions("m") == [1, 2, 3, 4, 5]


def test_drafts_of_killed_movers_are_pruned(store: ModelStore, root: Path) -> None:
    """A draft of an alias event is deleted once it is so old that no mover can still need it."""
    publish_plain(store)
    store.promote("m", 1)
    events = root / "m" / "aliases" / "production"
    for name in (".draft-old", ".draft-new"):
        (events / name).write_bytes(b"{}")
    os.utime(events / ".draft-old", (0, 0))
    (events / ".draft-\udcff\n").write_bytes(b"")
    os.utime(events / ".draft-\udcff\n", (0, 0))
    leftovers = (
        r"aliases/production/.draft-\udcff\n",
        "aliases/production/.draft-old",
    )
    assert store.prune("m", dry_run=True).leftovers == tuple(sorted(leftovers, reverse=True))
    assert (events / ".draft-old").exists()
    assert set(store.prune("m").leftovers) == set(leftovers)
    assert sorted(os.listdir(events)) == [".draft-new", "00000001.json"]
