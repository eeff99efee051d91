"""Leases keep versions open, and versions without leases close."""

import gc
import shutil
import threading
import weakref

import pytest
from colour_model import MODEL, publish
from registries import is_closed, serving, wait_until_closed
from server_process import PATIENCE_SECONDS

from service.errors import NotFoundError
from service.versions.reconciler import reconcile
from service.versions.registry import Registry


def test_deleted_model_is_unloaded_after_its_leases(registry: Registry) -> None:
    """A deleted model is not found, and closes after its last lease."""
    publish(registry.store)
    publish(registry.store, "other")
    reconcile(registry)
    with registry.lease(MODEL) as served:
        shutil.rmtree(registry.store.root / MODEL)
        reconcile(registry)
        with pytest.raises(NotFoundError):
            registry.find(MODEL)
        ((*_, closing),) = registry._state.draining._draining
        assert closing.is_alive()
        assert not served.batcher._closing
    wait_until_closed(registry)
    assert is_closed(served)
    assert registry.ready


def test_late_lease_is_taken_on_the_successor(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that is replaced between find and lease gives way to its successor."""
    publish(registry.store)
    reconcile(registry)
    late = registry.find(MODEL)
    publish(registry.store)
    reconcile(registry)
    wait_until_closed(registry)
    found = iter([late, registry.find(MODEL)])
    monkeypatch.setattr(registry, "find", lambda *_: next(found))
    with registry.lease(MODEL) as served:
        assert served.version.number == 2
    assert not late.take_lease()


@pytest.mark.slow
def test_leases_never_meet_a_closed_batcher(registry: Registry) -> None:
    """A leased version is open, however leases and replacements interleave."""
    store = registry.store
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    reconcile(registry)
    stop = threading.Event()
    leased: set[int] = set()
    closed: list[str] = []

    def lease() -> None:
        while not stop.is_set():
            with registry.lease(MODEL) as served:
                leased.add(served.version.number)
                if served.batcher._closing or served.version._lock._descriptor < 0:
                    closed.append(str(served.version))

    threads = [threading.Thread(target=lease) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in [2, 1] * 10:
        store.promote(MODEL, number)
        reconcile(registry)
        assert serving(registry) == number
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert leased == {1, 2}
    assert closed == []


def test_close_waits_for_draining_versions(registry: Registry) -> None:
    """close() returns after serving and draining versions have closed."""
    publish(registry.store)
    reconcile(registry)
    publish(registry.store)
    closing = threading.Thread(target=registry.close)
    with registry.lease(MODEL) as first:
        reconcile(registry)
        second = registry.find(MODEL)
        closing.start()
        second.batcher._threads[0].join(PATIENCE_SECONDS)
        assert closing.is_alive()
    closing.join(PATIENCE_SECONDS)
    assert not closing.is_alive()
    assert is_closed(first)
    assert is_closed(second)


def test_replaced_version_is_freed_immediately(registry: Registry) -> None:
    """The session of a replaced version is freed without garbage collection."""
    publish(registry.store)
    reconcile(registry)
    session = weakref.ref(registry.find(MODEL).selected_variant.session)
    gc.collect()
    gc.disable()
    try:
        publish(registry.store)
        reconcile(registry)
        wait_until_closed(registry)
        assert session() is None
    finally:
        gc.enable()
