"""The store: what it lists, opens, publishes and prunes, and what it refuses."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_factory import PLAIN_FILES, plain_fields, publish_plain, rewrite_manifest, snapshot
from store_processes import Workers, become_nobody, call_store, close_all, open_and_keep, read_alias

from model_store.errors import (
    AliasError,
    FileAlteredError,
    InvalidNameError,
    ManifestError,
    ModelNotFoundError,
    ModelStoreError,
    PublishError,
    StoreReadOnlyError,
    StoreUnreadableError,
    VersionNotFoundError,
)
from model_store.manifest import MANIFEST_NAME, Outputs, VersionReference
from model_store.store import DEFAULT_ROOT, Contents, ModelStore
from model_store.version import Version

BAD_MODEL_NAMES = ["", ".", "..", ".hidden", "a/b", "../m", "a\\b", "a\n", "a\0", "x" * 129]
NOT_CANONICAL = ["01", "+1", "0", "-1", "1.0", " 1", "1\n", "\uff11"]


@pytest.fixture(scope="module")
def nobody() -> Iterator[Workers]:
    """A process for which file permissions count, also where the tests run as root."""
    with Workers(1) as workers:
        workers.call(become_nobody, [()])
        yield workers


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A root with one model and one alias that every user can reach: pytest's own folder is root's alone."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        store = ModelStore(root, builtin_root=None)
        publish_plain(store)
        store.promote("m", 1)
        yield root
        root.chmod(0o755)
        for path in root.rglob("*"):
            path.chmod(0o755)  # or it could not be deleted


class TestListing:
    def test_contents_are_all_models_with_their_layer_and_versions(self, store: ModelStore, tmp_path: Path) -> None:
        """One look tells of every model what `layer` and `versions` tell, a published one hiding the built-in one of its name."""
        builtin = ModelStore(tmp_path / "builtin", builtin_root=None)
        builtin.root.mkdir()
        for name in ("m", "z"):
            publish_plain(builtin, name)
        for name in ("m", "m", "a"):
            publish_plain(store, name)
        layered = ModelStore(store.root, builtin.root)
        contents = layered.contents()
        assert contents == {
            "a": Contents("published", (1,)),
            "m": Contents("published", (1, 2)),
            "z": Contents("built-in", (1,)),
        }
        assert list(contents) == layered.models()
        for name, found in contents.items():
            assert (layered.layer(name), tuple(layered.versions(name))) == (found.layer, found.versions)

    def test_an_empty_store_is_empty(self, store: ModelStore) -> None:
        """A root that can be read and holds nothing has no models."""
        assert store.models() == []

    def test_models_and_versions_are_sorted(self, store: ModelStore) -> None:
        """Models are listed by name and versions by number, 10 after 9."""
        for _ in range(11):
            publish_plain(store, "b")
        publish_plain(store, "a")
        assert store.models() == ["a", "b"]
        assert store.versions("b") == list(range(1, 12))

    def test_what_is_no_model_is_ignored(self, store: ModelStore, root: Path) -> None:
        """Files, hidden folders, folders with other names and folders without a version are no models."""
        (root / "README.md").touch()
        for name in (".git", "lost+found", "empty", "-x"):
            (root / name).mkdir()
        publish_plain(store)
        (root / "m").rename(root / "m copy")
        assert store.models() == []

    @pytest.mark.parametrize("name", [*NOT_CANONICAL, "2.bak", "latest", ".2"])
    def test_a_directory_that_is_no_canonical_number_is_no_version(self, name: str, store: ModelStore, root: Path) -> None:
        """A whole version under a name that is not a canonical integer is ignored in listing and in numbering."""
        publish_plain(store)
        publish_plain(store)
        (root / "m" / "2").rename(root / "m" / name)
        assert store.versions("m") == [1]
        assert publish_plain(store) == 2

    def test_a_directory_without_a_manifest_is_no_version(self, store: ModelStore, root: Path) -> None:
        """A number without a manifest is not listed, and no publisher takes it."""
        (root / "m" / "5").mkdir(parents=True)
        (root / "m" / "7").touch()
        assert store.models() == []
        assert publish_plain(store) == 8
        assert store.versions("m") == [8]

    def test_a_model_that_does_not_exist_is_an_error(self, store: ModelStore) -> None:
        """Asking for an unknown model is a ModelNotFoundError that lists those there are."""
        publish_plain(store, "known")
        with pytest.raises(ModelNotFoundError, match="no model 'unknown'; there are known"):
            store.versions("unknown")

    @pytest.mark.parametrize("name", BAD_MODEL_NAMES)
    def test_a_bad_model_name_is_refused_everywhere(self, name: str, store: ModelStore, root: Path) -> None:
        """A model name that is not canonical is an InvalidNameError whatever it is for, and nothing is written."""
        publish_plain(store)
        before = snapshot(root.parent)
        uses: list[Callable[[], object]] = [
            lambda: store.versions(name),
            lambda: store.resolve(name),
            lambda: store.open(name, 1),
            lambda: store.aliases(name),
            lambda: store.promote(name, 1),
            lambda: store.rollback(name),
            lambda: store.prune(name),
            lambda: publish_plain(store, name),
        ]
        for use in uses:
            with pytest.raises(InvalidNameError, match="is no model name"):
                use()
        assert snapshot(root.parent) == before


class TestUnreadable:
    @pytest.mark.parametrize("make", [lambda _: None, Path.touch, lambda path: path.symlink_to("nowhere")])
    def test_a_root_that_is_no_folder_is_an_error(self, make: Callable[[Path], object], tmp_path: Path) -> None:
        """A root that is missing, a file or a dangling link is a StoreUnreadableError for every reader, never an empty list."""
        root = tmp_path / "root"
        make(root)
        store = ModelStore(root, builtin_root=None)
        for read in (store.models, lambda: store.versions("m"), lambda: store.resolve("m"), lambda: store.open("m", 1)):
            with pytest.raises(StoreUnreadableError, match=f"{root} can not be read"):
                read()

    def test_a_readable_builtin_layer_does_not_hide_an_unreadable_root(self, tmp_path: Path, builtin_root: Path) -> None:
        """Where the root can not be read the built-in models are not taken for the whole store, nor are they where they can not."""
        for layered in (ModelStore(tmp_path / "gone", builtin_root), ModelStore(builtin_root, tmp_path / "gone")):
            with pytest.raises(StoreUnreadableError):
                layered.models()
        with pytest.raises(StoreUnreadableError):
            ModelStore(tmp_path / "gone", builtin_root).versions("shipped")

    def test_only_the_default_root_may_be_missing(
        self, builtin_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where nothing was published yet the built-in models are the store, and the first publish makes the default root."""
        monkeypatch.chdir(tmp_path)
        store = ModelStore(builtin_root=builtin_root)
        assert store.models() == ["shipped"]
        assert store.layer("shipped") == "built-in"
        publish_plain(store)
        assert store.models() == ["m", "shipped"]
        assert (tmp_path / DEFAULT_ROOT / "m" / "1").is_dir()

    @pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("not mounted")], ids=["a file", "a dangling link"])
    def test_a_default_root_that_is_there_must_be_readable(
        self, make: Callable[[Path], object], builtin_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A default root that is a file or a dangling link is not one that is missing, and so an error."""
        monkeypatch.chdir(tmp_path)
        DEFAULT_ROOT.parent.mkdir()
        make(DEFAULT_ROOT)
        with pytest.raises(StoreUnreadableError):
            ModelStore(builtin_root=builtin_root).models()

    @pytest.mark.parametrize("place", ["", "m", "m/1"])
    def test_a_folder_without_permission_is_an_error(self, place: str, nobody: Workers, open_root: Path) -> None:
        """A root, model or version that may not be read is a StoreUnreadableError: a version never vanishes by its mode."""
        assert nobody.call(call_store, [(open_root, "models")]) == [["m"]]
        (open_root / place).chmod(0o000)
        try:
            for call in (("models",), ("versions", "m"), ("resolve", "m")):
                with pytest.raises(StoreUnreadableError, match="can not be read: Permission denied"):
                    nobody.call(call_store, [(open_root, *call)])
        finally:
            (open_root / place).chmod(0o755)
        assert nobody.call(call_store, [(open_root, "models")]) == [["m"]]

    @pytest.mark.parametrize("place", ["m/aliases", "m/aliases/production"])
    def test_an_alias_without_permission_is_an_error(self, place: str, nobody: Workers, open_root: Path) -> None:
        """An alias that may not be read is an error of the store's, not an alias that does not exist."""
        assert nobody.call(read_alias, [(open_root, "m", "production")]) == [1]
        (open_root / place).chmod(0o000)
        with pytest.raises((AliasError, StoreUnreadableError)):
            nobody.call(read_alias, [(open_root, "m", "production")])

    def test_a_file_without_permission_is_an_error(self, nobody: Workers, open_root: Path) -> None:
        """A sealed file that may not be read is an error of the store's that names the file."""
        (open_root / "m/1/model.onnx").chmod(0o000)
        with pytest.raises(ModelStoreError, match=r"m/1.*model\.onnx"):
            nobody.call(open_and_keep, [(open_root, "m", 1)])

    def test_a_store_that_may_not_be_written_is_an_error(self, nobody: Workers, open_root: Path) -> None:
        """Publishing to a read-only store is a PublishError and moving an alias there a StoreReadOnlyError."""
        with pytest.raises(PublishError, match="Permission denied"):
            nobody.call(call_store, [(open_root, "publish", "m", plain_fields(), dict(PLAIN_FILES))])
        with pytest.raises(StoreReadOnlyError):
            nobody.call(call_store, [(open_root, "promote", "m", 1)])


class TestResolve:
    def test_without_a_wish_production_counts_and_then_the_latest(self, store: ModelStore) -> None:
        """No version asked for means `production`, and the latest where that alias does not exist."""
        for _ in range(3):
            publish_plain(store)
        assert store.resolve("m") == 3
        store.promote("m", 2)
        assert store.resolve("m") == 2

    def test_a_wish_is_a_number_or_an_alias(self, store: ModelStore) -> None:
        """An integer is itself, an alias is where it points, and an unknown alias is an error that lists those there are."""
        publish_plain(store)
        store.promote("m", 1, "canary")
        assert store.resolve("m", "1") == 1
        assert store.resolve("m", "canary") == 1
        with pytest.raises(AliasError, match="m has no alias 'beta'; it has canary"):
            store.resolve("m", "beta")

    @pytest.mark.parametrize("wanted", [*NOT_CANONICAL, "", "..", "a/b"])
    def test_a_wish_that_is_neither_is_refused(self, wanted: str, store: ModelStore) -> None:
        """A second spelling of a version, or a name that no alias can have, is an InvalidNameError."""
        publish_plain(store)
        with pytest.raises(InvalidNameError):
            store.resolve("m", wanted)

    @pytest.mark.parametrize("alias", ["7", "2026-q1", "1st"])
    def test_an_alias_that_can_be_made_can_be_found(self, alias: str, store: ModelStore) -> None:
        """An alias whose name begins like a number is either refused when it is made, or resolves to its version."""
        publish_plain(store)
        try:
            store.promote("m", 1, alias)
        except InvalidNameError:
            return
        assert store.resolve("m", alias) == 1

    def test_a_version_that_is_not_there_is_an_error(self, store: ModelStore) -> None:
        """Opening an unknown version is a VersionNotFoundError that lists those there are."""
        publish_plain(store)
        publish_plain(store)
        with pytest.raises(VersionNotFoundError, match="m has no version 3; it has 1, 2"):
            store.open("m", 3)


class TestPublish:
    def test_versions_count_up_and_hold_what_was_given(self, store: ModelStore, tmp_path: Path) -> None:
        """Bytes and files on disk are copied, sealed and found under the next number, and nothing else is left in the folder."""
        weights = tmp_path / "weights.onnx"
        weights.write_bytes(b"from a file")
        assert store.publish("m", plain_fields(), {"model.onnx": weights, "notes/a.txt": b"bytes"}) == 1
        assert publish_plain(store) == 2
        with store.open("m", 1) as version:
            assert version.path("model.onnx").read_bytes() == b"from a file"
            assert version.path("notes/a.txt").read_bytes() == b"bytes"
        assert sorted(os.listdir(store.root / "m")) == ["1", "2"]

    def test_publishing_does_not_promote(self, store: ModelStore) -> None:
        """A new version moves no alias."""
        publish_plain(store)
        store.promote("m", 1)
        publish_plain(store)
        assert store.resolve("m") == 1

    def test_a_number_is_not_used_twice(self, store: ModelStore) -> None:
        """After pruning, the next version still gets a number that no version had."""
        for _ in range(3):
            publish_plain(store)
        store.prune("m", keep=1)
        assert publish_plain(store) == 4

    def test_a_copied_version_is_the_same_version(self, store: ModelStore, root: Path) -> None:
        """A version moved to another number keeps its identity: neither is in its manifest."""
        publish_plain(store)
        with store.open("m", 1) as version:
            digest = version.digest
        (root / "m" / "1").rename(root / "m" / "9")
        with store.open("m", 9) as version:
            assert version.digest == digest

    @pytest.mark.parametrize(
        ("fields", "files", "error_class", "words"),
        [
            ({"class_names": ("one",)}, PLAIN_FILES, ManifestError, "class_names"),
            ({"surprise": 1}, PLAIN_FILES, ManifestError, "surprise"),
            ({"proof": "proven"}, PLAIN_FILES, ManifestError, "golden"),
            ({}, {"other.onnx": b""}, ManifestError, "does not list model.onnx"),
            ({}, {**PLAIN_FILES, MANIFEST_NAME: b"{}"}, ManifestError, "does not list itself"),
            ({}, {**PLAIN_FILES, "../escaped": b""}, PublishError, "leaves the version's directory"),
            ({}, {**PLAIN_FILES, "/tmp/escaped": b""}, PublishError, "leaves the version's directory"),  # noqa: S108
            ({}, {**PLAIN_FILES, "labels/../escaped": b""}, ManifestError, "escaped"),
            ({}, {**PLAIN_FILES, "a\\b": b""}, ManifestError, "plain relative path"),
            ({}, {**PLAIN_FILES, "": b""}, PublishError, "publishing m failed"),
            ({}, {**PLAIN_FILES, "labels": b""}, PublishError, "publishing m failed"),
            ({}, {**PLAIN_FILES, "x" * 300: b""}, PublishError, "publishing m failed"),
            ({}, {**PLAIN_FILES, "a\0b": b""}, ModelStoreError, "b"),
            ({}, {"model.onnx": Path("/does/not/exist")}, PublishError, "No such file"),
        ],
    )
    def test_what_can_not_be_sealed_leaves_the_store_as_it_was(
        self, fields: dict[str, Any], files: dict[str, Any], error_class: type[ModelStoreError], words: str, store: ModelStore
    ) -> None:
        """A manifest or a file that is refused gives its own error, no version, and no rest of the attempt."""
        publish_plain(store)
        before = snapshot(store.root.parent)
        with pytest.raises(error_class, match=words):
            store.publish("m", plain_fields(**fields), files)
        assert snapshot(store.root.parent) == before

    def test_a_root_that_can_not_be_made_is_an_error(self, tmp_path: Path) -> None:
        """Publishing under something that is a file is a PublishError."""
        (tmp_path / "file").touch()
        with pytest.raises(PublishError, match="can not write to"):
            publish_plain(ModelStore(tmp_path / "file", builtin_root=None))

    def test_the_last_number_is_not_passed(self, store: ModelStore, root: Path) -> None:
        """Where the canonical numbers are used up, publishing is refused instead of making a version that nobody sees."""
        (root / "m" / ("9" * 18)).mkdir(parents=True)
        with pytest.raises(PublishError):
            publish_plain(store)


class TestBuiltinLayer:
    def test_it_shows_where_nothing_was_published(self, layered: ModelStore) -> None:
        """A built-in model is listed, opened and resolved as if it had been published, and says where it comes from."""
        publish_plain(layered, "own")
        assert layered.models() == ["own", "shipped"]
        assert (layered.layer("own"), layered.layer("shipped")) == ("published", "built-in")
        assert layered.resolve("shipped") == 1
        with layered.open("shipped", 1) as version:
            assert version.layer == "built-in"

    def test_a_published_model_of_the_same_name_hides_it(self, layered: ModelStore) -> None:
        """After publishing under a built-in model's name only what was published is there."""
        publish_plain(layered, "shipped", outputs=Outputs(logits="own"))
        assert layered.models() == ["shipped"]
        assert layered.layer("shipped") == "published"
        with layered.open("shipped", 1) as version:
            assert version.manifest.outputs.logits == "own"

    def test_a_folder_without_a_version_does_not_hide_it(self, layered: ModelStore, root: Path) -> None:
        """A publisher that was killed before its first version leaves the built-in model in view."""
        (root / "shipped" / ".staging-00").mkdir(parents=True)
        assert layered.layer("shipped") == "built-in"

    def test_it_can_not_be_changed(self, layered: ModelStore, tmp_path: Path) -> None:
        """Promoting, rolling back and pruning a built-in model is refused, and nothing is written to either layer."""
        before = snapshot(tmp_path)
        for change in (
            lambda: layered.promote("shipped", 1),
            lambda: layered.rollback("shipped"),
            lambda: layered.prune("shipped"),
        ):
            with pytest.raises(AliasError, match="shipped is built in"):
                change()
        assert snapshot(tmp_path) == before

    def test_it_is_verified_too(self, layered: ModelStore, builtin_root: Path) -> None:
        """A built-in version whose file was altered does not open."""
        (builtin_root / "shipped/1/model.onnx").write_bytes(b"x" * len(PLAIN_FILES["model.onnx"]))
        with pytest.raises(FileAlteredError):
            layered.open("shipped", 1)


class TestAliases:
    def test_only_a_version_that_exists_is_promoted(self, store: ModelStore, root: Path) -> None:
        """Promoting a version that is not there is a VersionNotFoundError and writes no event."""
        publish_plain(store)
        before = snapshot(root)
        with pytest.raises(VersionNotFoundError, match="m has no version 2, so production can not point to it"):
            store.promote("m", 2)
        assert snapshot(root) == before

    def test_aliases_touch_no_version(self, store: ModelStore, root: Path) -> None:
        """Moving an alias to and fro leaves every version's bytes as they are."""
        publish_plain(store)
        publish_plain(store)
        before = {number: snapshot(root / "m" / str(number)) for number in (1, 2)}
        store.promote("m", 1)
        store.promote("m", 2, why="better")
        assert store.rollback("m", why="not better") == 1
        assert before == {number: snapshot(root / "m" / str(number)) for number in (1, 2)}

    def test_a_rollback_never_points_to_a_version_that_is_gone(self, store: ModelStore) -> None:
        """Where the version before was pruned, a rollback is refused and the alias stays, or it goes to one that exists."""
        for version in (1, 2, 3):
            publish_plain(store)
            store.promote("m", version)
        store.prune("m", keep=1)
        try:
            store.rollback("m")
        except ModelStoreError:
            assert store.resolve("m") == 3
        assert store.resolve("m") in store.versions("m")


class TestPrune:
    @pytest.fixture
    def five(self, store: ModelStore) -> ModelStore:
        """A store with five versions of one model."""
        for _ in range(5):
            publish_plain(store)
        return store

    def test_the_newest_stay(self, five: ModelStore, root: Path) -> None:
        """The newest versions are kept, the rest is deleted from the disk, and the report says both."""
        report = five.prune("m", keep=2)
        assert report.deleted == (1, 2, 3)
        assert report.kept == {4: "among the newest 2", 5: "among the newest 2"}
        assert sorted(os.listdir(root / "m")) == ["4", "5"]

    def test_what_an_alias_names_stays(self, five: ModelStore) -> None:
        """Each alias's version is kept, however old."""
        five.promote("m", 1)
        five.promote("m", 3, "canary")
        assert five.prune("m", keep=1).deleted == (2, 4)
        assert (five.resolve("m"), five.resolve("m", "canary"), five.versions("m")) == (1, 3, [1, 3, 5])

    def test_what_an_alias_could_be_rolled_back_to_stays(self, five: ModelStore) -> None:
        """Of an alias's standing promotions the newest `keep` are kept, so that rollbacks find their versions."""
        for version in (1, 2, 3):
            five.promote("m", version)
        report = five.prune("m", keep=2)
        assert report.deleted == (1,)
        assert report.kept[2] == "production could be rolled back to it"
        assert five.rollback("m") == 2
        five.open("m", 2).close()

    def test_what_was_rolled_back_from_is_not_kept_for_it(self, five: ModelStore) -> None:
        """A promotion that was undone protects its version no longer."""
        for version in (1, 3):
            five.promote("m", version)
        five.rollback("m")
        assert five.prune("m", keep=1).deleted == (2, 3, 4)

    def test_what_another_process_reads_stays(self, five: ModelStore) -> None:
        """A version that a reader in another process has open is kept until that reader closes it."""
        with Workers(2) as readers:
            readers.call(open_and_keep, [(five.root, "m", 1), (five.root, "m", 2)])
            report = five.prune("m", keep=1)
            assert report.deleted == (3, 4)
            assert (report.kept[1], report.kept[2]) == ("a process has it open", "a process has it open")
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
        """What killed publishers and killed prunes left is removed; other hidden folders are not ours to remove."""
        for name in (".staging-dead", ".doomed-1-42", ".git"):
            (root / "m" / name / "folder").mkdir(parents=True)
        assert five.prune("m", keep=5).leftovers == (".doomed-1-42", ".staging-dead")
        assert sorted(os.listdir(root / "m")) == [".git", "1", "2", "3", "4", "5"]

    def test_a_publish_under_way_is_left_alone(self, five: ModelStore, tmp_path: Path) -> None:
        """A prune in the middle of a publish does not touch what is being staged, and the publish ends well."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        published: list[int] = []
        publisher = threading.Thread(
            target=lambda: published.append(five.publish("m", plain_fields(), {**PLAIN_FILES, "model.onnx": pipe}))
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
        """Where an alias's history can not be read nobody knows what it needs, so nothing is deleted."""
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


def test_a_version_says_what_it_derives_from(store: ModelStore) -> None:
    """A version made from another is a new version that names the first by number and identity; the first is not changed."""
    publish_plain(store)
    before = snapshot(store.root)
    with store.open("m", 1) as parent:
        reference = VersionReference(model="m", version=1, digest=parent.digest)
    assert publish_plain(store, derived_from=reference) == 2
    with store.open("m", 2) as child:
        assert isinstance(child, Version)
        assert child.manifest.derived_from == reference
    assert before.items() <= snapshot(store.root).items()
