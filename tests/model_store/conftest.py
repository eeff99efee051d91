"""Stores for the tests of `model_store`: an empty one, and one over a built-in layer."""

from pathlib import Path

import pytest
from hypothesis import settings
from store_factory import publish_plain

from model_store import heif
from model_store.store import ModelStore

if heif.SUPPORTED:
    heif.load_heif_plugin()  # so that the tests can also write such images
settings.register_profile("resident", deadline=None)  # no test asserts a time
settings.load_profile("resident")


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra `heif` were not installed."""
    monkeypatch.setattr(heif, "SUPPORTED", False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a store that exists and is empty."""
    root = tmp_path / "store"
    root.mkdir()
    return root


@pytest.fixture
def store(root: Path) -> ModelStore:
    """An empty store without a built-in layer."""
    return ModelStore(root, builtin_root=None)


@pytest.fixture
def builtin_root(tmp_path: Path) -> Path:
    """A built-in layer that holds version 1 of the model `shipped`."""
    builtin = tmp_path / "builtin"
    publish_plain(ModelStore(builtin, builtin_root=None), "shipped")
    return builtin


@pytest.fixture
def layered(root: Path, builtin_root: Path) -> ModelStore:
    """An empty store over the built-in layer."""
    return ModelStore(root, builtin_root)
