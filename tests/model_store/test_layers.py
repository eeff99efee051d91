"""The built-in layer under a store: shown where nothing was published, never changed."""

from pathlib import Path

import pytest
from store_factory import PLAIN_FILES, publish_plain, snapshot

from model_store.errors import (
    AliasError,
    FileAlteredError,
)
from model_store.manifest import Outputs
from model_store.store import ModelStore


class TestBuiltinLayer:
    def test_it_shows_where_nothing_was_published(self, layered: ModelStore) -> None:
        """It is listed, opened and resolved like a published one."""
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

    def test_a_folder_without_a_version_does_not_hide_it(
        self, layered: ModelStore, root: Path
    ) -> None:
        """The built-in model stays visible."""
        (root / "shipped" / ".staging-00").mkdir(parents=True)
        assert layered.layer("shipped") == "built-in"

    def test_it_can_not_be_changed(self, layered: ModelStore, tmp_path: Path) -> None:
        """Neither layer is written."""
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
