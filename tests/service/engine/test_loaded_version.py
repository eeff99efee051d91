"""A loaded version frees its memory, and its predictions follow what runs."""

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
def test_closed_version_frees_its_session_at_once(store: ModelStore) -> None:
    """No reference cycle keeps the weights until the garbage collector runs."""
    publish(store)
    loaded = LoadedVersion(store.open(MODEL, 1), EngineOptions(SessionOptions(), instances=2))
    session = weakref.ref(loaded.selected_variant.session)
    loaded.close()
    assert session() is not None
    del loaded
    assert session() is None


@pytest.mark.anyio
async def test_runs_correct_the_latency_profile(store: ModelStore) -> None:
    """Every batch changes the profile of the warm-up."""
    publish(store)
    loaded = LoadedVersion(store.open(MODEL, 1), EngineOptions(SessionOptions(), max_batch_size=8))
    try:
        before = [loaded.profile.seconds(size) for size in (1, 8)]
        await loaded.batcher.submit(
            np.zeros((SIZE, SIZE, 3), np.uint8), time.monotonic() + PATIENCE_SECONDS
        )
        assert [loaded.profile.seconds(size) for size in (1, 8)] != before
    finally:
        loaded.close()
