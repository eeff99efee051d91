"""A version as it serves: what it holds, and that it lets go of it."""

import gc
import weakref
from collections.abc import Iterator

import pytest
from colour_model import MODEL, publish

from model_store.session import SessionOptions
from model_store.store import ModelStore
from service.served_version import EngineOptions, ServedVersion


@pytest.fixture
def _no_garbage_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_garbage_collector")
def test_a_closed_version_s_memory_is_free_at_once(store: ModelStore) -> None:
    """No cycle holds the session until the garbage collector comes: a hundred reloads would each leave their weights behind."""
    publish(store)
    served = ServedVersion(store.open(MODEL, 1), EngineOptions(SessionOptions(), instances=2))
    session = weakref.ref(served.choice.session)
    served.close()
    assert session() is not None
    del served
    assert session() is None
