"""A store that can not be read or written is an error, never an empty list."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_factory import PLAIN_FILES, plain_fields, publish_plain
from store_processes import Workers, become_nobody, call_store, open_and_keep, read_alias

from model_store.errors import (
    AliasError,
    ModelStoreError,
    PublishError,
    StoreReadOnlyError,
    StoreUnreadableError,
)
from model_store.store import DEFAULT_ROOT, ModelStore


@pytest.fixture(scope="module")
def nobody() -> Iterator[Workers]:
    """A process for which file permissions count, also where the tests run as root."""
    with Workers(1) as workers:
        workers.call(become_nobody, [()])
        yield workers


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A root with a model and an alias outside of pytest's private directory."""
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


class TestUnreadable:
    @pytest.mark.parametrize(
        "make", [lambda _: None, Path.touch, lambda path: path.symlink_to("nowhere")]
    )
    def test_a_root_that_is_no_folder_is_an_error(
        self, make: Callable[[Path], object], tmp_path: Path
    ) -> None:
        """StoreUnreadableError for every reader, never an empty list."""
        root = tmp_path / "root"
        make(root)
        store = ModelStore(root, builtin_root=None)
        for read in (
            store.models,
            lambda: store.versions("m"),
            lambda: store.resolve("m"),
            lambda: store.open("m", 1),
        ):
            with pytest.raises(StoreUnreadableError, match=str(root)):
                read()

    def test_a_readable_builtin_layer_does_not_hide_an_unreadable_root(
        self, tmp_path: Path, builtin_root: Path
    ) -> None:
        """The built-in models are not treated as the whole store."""
        for layered in (
            ModelStore(tmp_path / "gone", builtin_root),
            ModelStore(builtin_root, tmp_path / "gone"),
        ):
            with pytest.raises(StoreUnreadableError):
                layered.models()
        with pytest.raises(StoreUnreadableError):
            ModelStore(tmp_path / "gone", builtin_root).versions("shipped")

    def test_only_the_default_root_may_be_missing(
        self, builtin_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first publication creates the default root."""
        monkeypatch.chdir(tmp_path)
        assert ModelStore(Path(str(DEFAULT_ROOT)), builtin_root).models() == ["shipped"]
        store = ModelStore(builtin_root=builtin_root)
        assert store.models() == ["shipped"]
        assert store.layer("shipped") == "built-in"
        publish_plain(store)
        assert store.models() == ["m", "shipped"]
        assert (tmp_path / DEFAULT_ROOT / "m" / "1").is_dir()

    @pytest.mark.parametrize(
        "make",
        [Path.touch, lambda path: path.symlink_to("not mounted")],
        ids=["a file", "a dangling link"],
    )
    def test_a_default_root_that_is_there_must_be_readable(
        self,
        make: Callable[[Path], object],
        builtin_root: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It exists, so it is an error."""
        monkeypatch.chdir(tmp_path)
        DEFAULT_ROOT.parent.mkdir()
        make(DEFAULT_ROOT)
        with pytest.raises(StoreUnreadableError):
            ModelStore(builtin_root=builtin_root).models()

    @pytest.mark.parametrize("place", ["", "m", "m/1"])
    def test_a_folder_without_permission_is_an_error(
        self, place: str, nobody: Workers, open_root: Path
    ) -> None:
        """A version never disappears because of its permissions."""
        assert nobody.call(call_store, [(open_root, "models")]) == [["m"]]
        (open_root / place).chmod(0o000)
        try:
            for call in (("models",), ("versions", "m"), ("resolve", "m")):
                with pytest.raises(StoreUnreadableError, match="Permission denied"):
                    nobody.call(call_store, [(open_root, *call)])
        finally:
            (open_root / place).chmod(0o755)
        assert nobody.call(call_store, [(open_root, "models")]) == [["m"]]

    @pytest.mark.parametrize("place", ["m/aliases", "m/aliases/production"])
    def test_an_alias_without_permission_is_an_error(
        self, place: str, nobody: Workers, open_root: Path
    ) -> None:
        """It is an error, not a missing alias."""
        assert nobody.call(read_alias, [(open_root, "m", "production")]) == [1]
        (open_root / place).chmod(0o000)
        with pytest.raises((AliasError, StoreUnreadableError)):
            nobody.call(read_alias, [(open_root, "m", "production")])

    def test_a_file_without_permission_is_an_error(self, nobody: Workers, open_root: Path) -> None:
        """A sealed file that may not be read is an error of the store's that names the file."""
        (open_root / "m/1/model.onnx").chmod(0o000)
        with pytest.raises(ModelStoreError, match=r"m/1.*model\.onnx"):
            nobody.call(open_and_keep, [(open_root, "m", 1)])

    def test_a_store_that_may_not_be_written_is_an_error(
        self, nobody: Workers, open_root: Path
    ) -> None:
        """PublishError for publishing, StoreReadOnlyError for moving an alias."""
        with pytest.raises(PublishError, match="Permission denied"):
            nobody.call(
                call_store, [(open_root, "publish", "m", plain_fields(), dict(PLAIN_FILES))]
            )
        with pytest.raises(StoreReadOnlyError):
            nobody.call(call_store, [(open_root, "promote", "m", 1)])
