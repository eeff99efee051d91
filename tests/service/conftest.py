"""Servers that several tests share, over stores of small real versions."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from colour_model import make_store, publish
from registries import options
from server_process import ServerProcess, running

from model_store.store import ModelStore
from service.versions.registry import Registry


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SERVICE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests independent of this user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store without built-in models."""
    return make_store(tmp_path / "store")


@pytest.fixture
def registry(store: ModelStore) -> Iterator[Registry]:
    """A registry over an empty store, not yet reconciled."""
    registry = Registry(store, options)
    yield registry
    registry.close()


@pytest.fixture(scope="session")
def colour_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store that holds one version of `colours`."""
    store = make_store(tmp_path_factory.mktemp("colours") / "store")
    publish(store)
    return store


@pytest.fixture(scope="session")
def server(colour_store: ModelStore) -> Iterator[ServerProcess]:
    """A server with default settings."""
    with running("--store", colour_store.root, "--no-builtin") as server:
        yield server.announced()


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def limited_server(colour_store: ModelStore) -> Iterator[ServerProcess]:
    """A server with low limits."""
    limits = ("--max-body-bytes", 50_000, "--max-images", 4, "--max-pixels", 100_000)
    with running("--store", colour_store.root, "--no-builtin", *limits) as server:
        yield server.announced()


@pytest.fixture(scope="session")
def limited_client(limited_server: ServerProcess) -> Iterator[httpx.Client]:
    with limited_server.client() as client:
        yield client
