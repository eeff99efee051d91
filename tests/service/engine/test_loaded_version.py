"""A version as it serves: what it holds, and that it lets go of it."""

import gc
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from colour_model import MODEL, SIZE, publish
from server_process import PATIENCE_SECONDS

from model_store.session import SessionOptions
from model_store.store import ModelStore
from service.engine.loaded_version import LoadedVersion
from service.engine.options import EngineOptions


@pytest.fixture
def _no_garbage_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_garbage_collector")
def test_a_closed_version_s_memory_is_free_at_once(store: ModelStore) -> None:
    """No cycle holds the session until the garbage collector comes: a hundred reloads would each leave their weights behind."""
    publish(store)
    served = LoadedVersion(store.open(MODEL, 1), EngineOptions(SessionOptions(), instances=2))
    session = weakref.ref(served.selected_variant.session)
    served.close()
    assert session() is not None
    del served
    assert session() is None


@pytest.mark.anyio
async def test_what_runs_corrects_what_is_predicted(store: ModelStore) -> None:
    """The profile of the warm-up follows each batch that is really run."""
    publish(store)
    served = LoadedVersion(store.open(MODEL, 1), EngineOptions(SessionOptions(), max_batch_size=8))
    try:
        before = [served.profile.seconds(size) for size in (1, 8)]
        await served.batcher.submit(
            np.zeros((SIZE, SIZE, 3), np.uint8), time.monotonic() + PATIENCE_SECONDS
        )
        assert [served.profile.seconds(size) for size in (1, 8)] != before
    finally:
        served.close()
