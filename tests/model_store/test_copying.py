"""`python -m model_store copy`: versions of one store in another."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from store_factory import publish_plain, publish_proven

import model_store.__main__
from model_store.copying import copy_versions
from model_store.errors import FileAlteredError, ModelNotFoundError
from model_store.store import ModelStore


@pytest.fixture
def source(tmp_path: Path) -> ModelStore:
    """Two versions of `m` and one of `other`."""
    store = ModelStore(tmp_path / "source", builtin_root=None)
    publish_plain(store)
    publish_plain(store, max_batch_size=4)
    publish_plain(store, "other")
    return store


@pytest.fixture
def destination(tmp_path: Path) -> ModelStore:
    (tmp_path / "destination").mkdir()
    return ModelStore(tmp_path / "destination", builtin_root=None)


def digests(store: ModelStore, model: str) -> list[str]:
    found = []
    for number in store.versions(model):
        with store.open(model, number) as version:
            found.append(version.digest)
    return found


def test_a_copy_keeps_its_digest(source: ModelStore, destination: ModelStore) -> None:
    """All versions are copied, oldest first, and are verified in the destination."""
    copied = list(copy_versions(source, destination))
    assert [(entry.model, entry.source, entry.destination) for entry in copied] == [
        ("m", 1, 1),
        ("m", 2, 2),
        ("other", 1, 1),
    ]
    assert all(entry.is_new for entry in copied)
    for model in ("m", "other"):
        assert digests(destination, model) == digests(source, model)


def test_versions_that_are_there_are_skipped(source: ModelStore, destination: ModelStore) -> None:
    """A second copy adds nothing, and a version has the destination's next number."""
    publish_plain(destination, max_batch_size=2)
    first = list(copy_versions(source, destination, ["m"]))
    assert [(entry.source, entry.destination) for entry in first] == [(1, 2), (2, 3)]
    again = list(copy_versions(source, destination, ["m"]))
    assert [(entry.destination, entry.is_new) for entry in again] == [(2, False), (3, False)]
    assert destination.models() == ["m"]
    assert destination.versions("m") == [1, 2, 3]


def test_a_damaged_version_is_not_copied(source: ModelStore, destination: ModelStore) -> None:
    (source.root / "m" / "2" / "model.onnx").write_bytes(b"not run in these tests?")
    with pytest.raises(FileAlteredError):
        list(copy_versions(source, destination, ["m"]))
    assert destination.versions("m") == [1]
    with pytest.raises(ModelNotFoundError):
        list(copy_versions(source, destination, ["absent"]))


def test_the_command_copies_a_proven_version(tmp_path: Path, destination: ModelStore) -> None:
    """The destination is created, and the copy passes its golden proof there."""
    source = ModelStore(tmp_path / "proven", builtin_root=None)
    publish_proven(source)
    target = tmp_path / "new" / "store"
    assert copy(source.root, target).exit_code == 0
    verified = CliRunner().invoke(
        model_store.__main__.main, ["--store", str(target), "verify", *source.models()]
    )
    assert verified.exit_code == 0, verified.output
    assert copy(tmp_path / "absent", target).exit_code == 2
    assert copy(source.root, destination.root, "absent").exit_code == 1


def copy(*arguments: object) -> Result:
    return CliRunner().invoke(model_store.__main__.main, ["copy", *map(str, arguments)])
