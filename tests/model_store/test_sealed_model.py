"""A session of a version has the bytes whose sha256 was compared, even if files are swapped."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from store_factory import SIZE, WEIGHTS, plain_fields
from tiny_model import tiny_model_bytes

from model_store import sealed_model
from model_store import version as version_module
from model_store.errors import FileAlteredError, StoreUnreadableError
from model_store.graph_cache import FOLDER, GraphCache
from model_store.sealed_model import load_variant, open_model
from model_store.session import Session, SessionOptions
from model_store.store import ModelStore
from model_store.version import Version

HONEST = tiny_model_bytes(SIZE, SIZE, WEIGHTS)
SWAPPED = tiny_model_bytes(SIZE, SIZE, -WEIGHTS)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
EXPECTED = IMAGES.reshape(2, -1, 3).mean(axis=1) @ WEIGHTS
Swap = Callable[[Path], None]


def replace(path: Path) -> None:
    draft = path.with_name(".draft")
    draft.write_bytes(SWAPPED)
    draft.replace(path)


def rewrite(path: Path) -> None:
    path.write_bytes(SWAPPED)


def replace_folder(path: Path) -> None:
    other = path.parent.with_name("other")
    shutil.copytree(path.parent, other)
    (other / path.name).write_bytes(SWAPPED)
    path.parent.rename(path.parent.with_name("away"))
    other.rename(path.parent)


@pytest.fixture
def version(store: ModelStore) -> Iterator[Version]:
    store.publish("m", plain_fields(), {"model.onnx": HONEST})
    with store.open("m", 1) as version:
        yield version


def load(version: Version, cache: GraphCache | None = None) -> Session:
    return load_variant(version, version.variant(), SessionOptions(graphs=cache))


def is_honest(session: Session) -> bool:
    return np.allclose(session.run(IMAGES), EXPECTED, rtol=1e-4)


@pytest.mark.parametrize("swap", [replace, rewrite, replace_folder])
@pytest.mark.parametrize("cached", [True, False])
def test_file_swapped_between_comparison_and_load_is_not_used(
    swap: Swap, cached: bool, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error or the honest model, and the cache has the honest model or nothing."""
    path, root = version.path("model.onnx"), tmp_path / "cache"
    real = onnxruntime.InferenceSession

    def swap_first(*arguments: object, **options: object) -> onnxruntime.InferenceSession:
        monkeypatch.setattr(onnxruntime, "InferenceSession", real)
        swap(path)
        return real(*arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", swap_first)
    try:
        assert is_honest(load(version, GraphCache(root, 10**8) if cached else None))
    except (FileAlteredError, StoreUnreadableError):
        assert swap != replace_folder
    path.write_bytes(HONEST)
    assert is_honest(load(version, GraphCache(root, 10**8)))
    assert len(list((root / FOLDER).iterdir())) == 1


@pytest.mark.parametrize("written", [SWAPPED, b"no graph"])
def test_write_between_hash_and_load_is_noticed(
    written: bytes, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether ONNX Runtime then loads the other model or fails, the version can be tried again."""
    hash_file = version_module.hash_open_file

    def hash_then_write(file: FileIO) -> str:
        digest = hash_file(file)
        version.path("model.onnx").write_bytes(written)
        return digest

    monkeypatch.setattr(version_module, "hash_open_file", hash_then_write)
    with pytest.raises(StoreUnreadableError):
        load(version)


def test_file_swapped_before_the_comparison_is_rejected(version: Version, tmp_path: Path) -> None:
    """Nothing is cached for it."""
    replace(version.path("model.onnx"))
    with pytest.raises(FileAlteredError):
        load(version, GraphCache(tmp_path / "cache", 10**8))
    assert list((tmp_path / "cache" / FOLDER).iterdir()) == []


def test_cached_graph_needs_no_model_file(
    version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a start does not compare the file a second time."""
    load(version, GraphCache(tmp_path / "cache", 10**8))
    monkeypatch.setattr(sealed_model, "open_model", lambda *_: pytest.fail("opened"))
    assert is_honest(load(version, GraphCache(tmp_path / "cache", 10**8)))


@pytest.mark.parametrize("folder", [Path("/proc/self/fd"), Path("/nonexistent")])
def test_weights_in_another_file_are_loaded(
    folder: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without `/proc`, by a copy. Weights that were swapped are not loaded."""
    monkeypatch.setattr(sealed_model, "OPEN_FILES", folder)
    graph = tiny_model_bytes(SIZE, SIZE, WEIGHTS, weights_file="weights.bin")
    store.publish("m", plain_fields(), {"model.onnx": graph, "weights.bin": WEIGHTS.tobytes()})
    with store.open("m", 1) as version:
        assert is_honest(load(version))
        with open_model(version, version.variant()) as path:
            assert sorted(os.listdir(path.parent)) == ["model.onnx", "weights.bin"]
        assert not path.parent.exists()
        version.path("weights.bin").write_bytes((-WEIGHTS).tobytes())
        with pytest.raises(FileAlteredError, match=r"weights\.bin"):
            load(version)


def test_no_temporary_directory_is_needed(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container in which nothing is writable, a graph in one file is loaded."""

    def full(**_: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    assert is_honest(load(version))
    monkeypatch.setattr(sealed_model, "OPEN_FILES", Path("/nonexistent"))
    with pytest.raises(StoreUnreadableError):
        load(version)
