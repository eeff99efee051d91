"""The registry while versions are in use: what is leased stays open, and what nobody holds is closed."""

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


def test_model_that_is_gone_is_unloaded_once_its_leases_are_back(registry: Registry) -> None:
    """New requests are told that it does not exist; one that has it finishes on it, and then it is closed."""
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


def test_lease_that_comes_too_late_is_taken_on_the_successor(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that was swapped out between being found and being leased gives no lease, and the request gets the next one."""
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


def test_leases_and_swaps_from_many_threads_never_meet_a_closed_batcher(registry: Registry) -> None:
    """However a lease falls on a swap, what it holds is open."""
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


def test_close_waits_for_what_is_still_being_unloaded(registry: Registry) -> None:
    """At the end nothing is left behind: neither what serves nor what was swapped out and is still leased."""
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


def test_version_that_was_swapped_out_is_freed_at_once(registry: Registry) -> None:
    """Its session goes with its last user: waiting for Python to look for cycles would let memory grow by a model a reload."""
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
