"""The store: what it lists, opens and publishes, and what it refuses."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_factory import PLAIN_FILES, plain_fields, publish_plain, publish_proven, snapshot

from model_store import publishing
from model_store.errors import (
    AliasError,
    InvalidNameError,
    ManifestError,
    ModelNotFoundError,
    ModelStoreError,
    PublishError,
    VersionNotFoundError,
)
from model_store.manifest import MANIFEST_NAME
from model_store.provenance import VersionReference
from model_store.store import ModelContents, ModelStore
from model_store.version import Version

BAD_MODEL_NAMES = ["", ".", "..", ".hidden", "a/b", "../m", "a\\b", "a\n", "a\0", "x" * 129]
NOT_CANONICAL = ["01", "+1", "0", "-1", "1.0", " 1", "1\n", "\uff11"]


class TestListing:
    def test_contents_are_all_models_with_their_layer_and_versions(
        self, store: ModelStore, tmp_path: Path
    ) -> None:
        """As `layer` and `versions` report; a published model hides a built-in one."""
        builtin = ModelStore(tmp_path / "builtin", builtin_root=None)
        builtin.root.mkdir()
        for name in ("m", "z"):
            publish_plain(builtin, name)
        for name in ("m", "m", "a"):
            publish_plain(store, name)
        layered = ModelStore(store.root, builtin.root)
        contents = layered.contents()
        assert contents == {
            "a": ModelContents("published", (1,)),
            "m": ModelContents("published", (1, 2)),
            "z": ModelContents("built-in", (1,)),
        }
        assert list(contents) == layered.models()
        for name, found in contents.items():
            assert (layered.layer(name), tuple(layered.versions(name))) == (
                found.layer,
                found.versions,
            )

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
        """Files, hidden directories, other names, and directories without a version."""
        (root / "README.md").touch()
        for name in (".git", "lost+found", "empty", "-x"):
            (root / name).mkdir()
        publish_plain(store)
        (root / "m").rename(root / "m copy")
        assert store.models() == []

    @pytest.mark.parametrize("name", [*NOT_CANONICAL, "2.bak", "latest", ".2"])
    def test_a_directory_that_is_no_canonical_number_is_no_version(
        self, name: str, store: ModelStore, root: Path
    ) -> None:
        """It is neither listed nor counted for the next number."""
        publish_plain(store)
        publish_plain(store)
        (root / "m" / "2").rename(root / "m" / name)
        assert store.versions("m") == [1]
        assert publish_plain(store) == 2

    def test_a_directory_without_a_manifest_is_no_version(
        self, store: ModelStore, root: Path
    ) -> None:
        """A number without a manifest is not listed, and no publisher takes it."""
        (root / "m" / "5").mkdir(parents=True)
        (root / "m" / "7").touch()
        assert store.models() == []
        assert publish_plain(store) == 8
        assert store.versions("m") == [8]

    def test_a_model_that_does_not_exist_is_an_error(self, store: ModelStore) -> None:
        """Asking for an unknown model is a ModelNotFoundError that lists those there are."""
        publish_plain(store, "known")
        with pytest.raises(ModelNotFoundError, match=r"'unknown'.*known"):
            store.versions("unknown")

    @pytest.mark.parametrize("name", BAD_MODEL_NAMES)
    def test_a_bad_model_name_is_refused_everywhere(
        self, name: str, store: ModelStore, root: Path
    ) -> None:
        """InvalidNameError in every method, and nothing is written."""
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
            with pytest.raises(InvalidNameError, match="model name"):
                use()
        assert snapshot(root.parent) == before


class TestResolve:
    def test_without_a_wish_production_counts_and_then_the_latest(self, store: ModelStore) -> None:
        """The latest version if that alias does not exist."""
        for _ in range(3):
            publish_plain(store)
        assert store.resolve("m") == 3
        store.promote("m", 2)
        assert store.resolve("m") == 2

    def test_a_wish_is_a_number_or_an_alias(self, store: ModelStore) -> None:
        """An unknown alias is an error that lists the known ones."""
        publish_plain(store)
        store.promote("m", 1, "canary")
        assert store.resolve("m", "1") == 1
        assert store.resolve("m", "canary") == 1
        with pytest.raises(AliasError, match="m has no alias 'beta'; it has canary"):
            store.resolve("m", "beta")

    @pytest.mark.parametrize("wanted", [*NOT_CANONICAL, "", "..", "a/b"])
    def test_a_wish_that_is_neither_is_refused(self, wanted: str, store: ModelStore) -> None:
        """InvalidNameError."""
        publish_plain(store)
        with pytest.raises(InvalidNameError):
            store.resolve("m", wanted)

    @pytest.mark.parametrize("alias", ["7", "2026-q1", "1st"])
    def test_an_alias_that_can_be_made_can_be_found(self, alias: str, store: ModelStore) -> None:
        """It is rejected when it is created, or it resolves to its version."""
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
    def test_versions_count_up_and_hold_what_was_given(
        self, store: ModelStore, tmp_path: Path
    ) -> None:
        """Under the next number, with nothing else in the directory."""
        weights = tmp_path / "weights.onnx"
        weights.write_bytes(b"from a file")
        assert (
            store.publish("m", plain_fields(), {"model.onnx": weights, "notes/a.txt": b"bytes"})
            == 1
        )
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
            ({"class_names": ("x" * 10**7, "y" * 10**7)}, PLAIN_FILES, ManifestError, "16,777,216"),
            ({}, {"other.onnx": b""}, ManifestError, r"model\.onnx"),
            ({}, {**PLAIN_FILES, MANIFEST_NAME: b"{}"}, ManifestError, "manifest.json"),
            (
                {},
                {**PLAIN_FILES, "../escaped": b""},
                PublishError,
                "escaped",
            ),
            (
                {},
                {**PLAIN_FILES, "/tmp/escaped": b""},
                PublishError,
                "escaped",
            ),
            ({}, {**PLAIN_FILES, "labels/../escaped": b""}, ManifestError, "escaped"),
            ({}, {**PLAIN_FILES, "a\\b": b""}, ManifestError, "files"),
            ({}, {**PLAIN_FILES, "": b""}, PublishError, "publishing m failed"),
            ({}, {**PLAIN_FILES, "labels": b""}, PublishError, "publishing m failed"),
            ({}, {**PLAIN_FILES, "x" * 300: b""}, PublishError, "publishing m failed"),
            ({}, {**PLAIN_FILES, "a\0b": b""}, ModelStoreError, "b"),
            ({}, {"model.onnx": Path("/does/not/exist")}, PublishError, "No such file"),
        ],
    )
    def test_what_can_not_be_sealed_leaves_the_store_as_it_was(
        self,
        fields: dict[str, Any],
        files: dict[str, Any],
        error_class: type[ModelStoreError],
        words: str,
        store: ModelStore,
    ) -> None:
        """Its own error, no version, and no leftovers."""
        publish_plain(store)
        before = snapshot(store.root.parent)
        with pytest.raises(error_class, match=words):
            store.publish("m", plain_fields(**fields), files)
        assert snapshot(store.root.parent) == before

    def test_what_cannot_be_opened_is_not_published(
        self, store: ModelStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A golden image that is too large to be read again."""
        monkeypatch.setattr(publishing, "MAX_GOLDEN_IMAGE_BYTES", 10)
        with pytest.raises(ModelStoreError):
            publish_proven(store)
        assert store.contents() == {}

    def test_a_root_that_can_not_be_made_is_an_error(self, tmp_path: Path) -> None:
        """Publishing under something that is a file is a PublishError."""
        (tmp_path / "file").touch()
        with pytest.raises(PublishError, match="file"):
            publish_plain(ModelStore(tmp_path / "file", builtin_root=None))

    def test_the_last_number_is_not_passed(self, store: ModelStore, root: Path) -> None:
        """It would not be listed."""
        (root / "m" / ("9" * 18)).mkdir(parents=True)
        with pytest.raises(PublishError):
            publish_plain(store)


class TestAliases:
    def test_only_a_version_that_exists_is_promoted(self, store: ModelStore, root: Path) -> None:
        """Promoting a version that is not there is a VersionNotFoundError and writes no event."""
        publish_plain(store)
        before = snapshot(root)
        with pytest.raises(VersionNotFoundError, match="version 2"):
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
        """A rollback goes to a version that exists, or fails and leaves the alias."""
        for version in (1, 2, 3):
            publish_plain(store)
            store.promote("m", version)
        store.prune("m", keep=1)
        try:
            store.rollback("m")
        except ModelStoreError:
            assert store.resolve("m") == 3
        assert store.resolve("m") in store.versions("m")


def test_a_version_says_what_it_derives_from(store: ModelStore) -> None:
    """It refers to the first by number and digest; the first is not changed."""
    publish_plain(store)
    before = snapshot(store.root)
    with store.open("m", 1) as parent:
        reference = VersionReference(model="m", version=1, digest=parent.digest)
    assert publish_plain(store, derived_from=reference) == 2
    with store.open("m", 2) as child:
        assert isinstance(child, Version)
        assert child.manifest.derived_from == reference
    assert before.items() <= snapshot(store.root).items()
