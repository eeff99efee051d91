"""A root that is the directory of one model or of one version, as Kubernetes mounts it."""

import errno
import fcntl
import logging
from pathlib import Path

import pytest
from store_factory import publish_plain

from model_store import files
from model_store.errors import (
    AliasError,
    ManifestError,
    ModelNotFoundError,
    PathEscapesError,
    PublishError,
)
from model_store.store import ModelStore


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A store with versions 1 and 2 of `flowers`; `production` is 1."""
    store = ModelStore(tmp_path / "store", None)
    for _ in range(2):
        publish_plain(store, "flowers")
    store.promote("flowers", 1)
    return store.root


def test_the_directory_of_a_model_is_a_store_with_that_model(published: Path) -> None:
    store = ModelStore(published / "flowers", None)
    assert store.models() == ["flowers"]
    assert store.single_model() == "flowers"
    assert store.versions("flowers") == [1, 2]
    assert store.resolve("flowers") == 1  # its aliases are read
    with store.open("flowers", 2) as version:
        assert str(version) == "flowers/2"
    assert list(store.contents()) == ["flowers"]
    store.promote("flowers", 2)
    assert ModelStore(published, None).resolve("flowers") == 2
    with pytest.raises(ModelNotFoundError):
        store.open("other", 1)


def test_the_directory_of_a_version_is_a_store_with_that_version(published: Path) -> None:
    """Its number is the name of the directory if that is a number, else 1."""
    store = ModelStore(published / "flowers/2", None)
    assert store.versions("flowers") == [2]
    assert store.resolve("flowers") == 2
    renamed = (published / "flowers/2").rename(published.parent / "models")
    store = ModelStore(renamed, None)
    assert store.versions("flowers") == [1]
    store.open("flowers", 1).close()


def test_a_single_model_may_be_served_under_another_name(published: Path) -> None:
    for root in (published / "flowers", published / "flowers/1"):
        store = ModelStore(root, None, model_name="roses")
        assert store.models() == ["roses"]
        with store.open("roses", 1) as version:
            assert (version.model, version.manifest.model) == ("roses", "flowers")
        with pytest.raises(ModelNotFoundError):
            store.open("flowers", 1)


def test_in_a_store_a_version_keeps_its_name(published: Path) -> None:
    (published / "flowers").rename(published / "roses")
    with pytest.raises(ManifestError):
        ModelStore(published, None, model_name="roses").open("roses", 1)


@pytest.mark.parametrize("below", ["", "flowers", "flowers/2"])
def test_the_root_may_be_a_symbolic_link(published: Path, tmp_path: Path, below: str) -> None:
    """Also one through a link that only the kernel can follow, as KServe's `modelcar` has it."""
    link, further = tmp_path / "link", tmp_path / "further"
    link.symlink_to(further)
    further.symlink_to(f"/proc/self/cwd/{(published / below).relative_to('/')}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("/")
        store = ModelStore(link, None)
        assert store.versions("flowers") == ([2] if below == "flowers/2" else [1, 2])
        store.open("flowers", 2).close()


def test_links_inside_a_version_stay_refused(published: Path, tmp_path: Path) -> None:
    model = published / "flowers/1/model.onnx"
    model.rename(tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    for root in (published, published / "flowers", published / "flowers/1"):
        with pytest.raises(PathEscapesError):
            ModelStore(root, None).open("flowers", 1)


def test_a_version_that_is_a_link_stays_refused(published: Path) -> None:
    (published / "flowers/3").symlink_to("2")
    for root in (published, published / "flowers"):
        with pytest.raises(PathEscapesError):
            ModelStore(root, None).open("flowers", 3)


def test_nothing_is_published_into_a_model_or_moved_in_a_version(published: Path) -> None:
    """A sealed version must not get a directory of aliases."""
    for root in (published / "flowers", published / "flowers/1"):
        with pytest.raises(PublishError):
            publish_plain(ModelStore(root, None), "flowers")
    store = ModelStore(published / "flowers/1", None)
    for change in (store.promote, store.prune):
        with pytest.raises(AliasError):
            change("flowers", 1)
    assert sorted(path.name for path in (published / "flowers").iterdir()) == ["1", "2", "aliases"]


def test_a_manifest_without_a_name_still_says_what_is_wrong_with_it(published: Path) -> None:
    (published / "flowers/1/manifest.json").write_bytes(b"{")
    store = ModelStore(published / "flowers/1", None)
    (name,) = store.models()
    with pytest.raises(ManifestError):
        store.open(name, 1)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_without_locks_versions_are_opened_and_nothing_is_pruned(
    published: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """As on a network file system: reading works, which is logged once; deleting does not."""

    def flock(*_: int) -> None:
        raise OSError(code, "no locks")

    files._log_missing_locks.cache_clear()
    monkeypatch.setattr(fcntl, "flock", flock)
    store = ModelStore(published, None)
    with caplog.at_level(logging.WARNING):
        for number in (1, 2):
            store.open("flowers", number).close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    publish_plain(ModelStore(published, None), "flowers")
    store.promote("flowers", 3)
    with pytest.raises(OSError, match="no locks"):
        store.prune("flowers", keep=1)
    assert store.versions("flowers") == [1, 2, 3]
    files._log_missing_locks.cache_clear()
