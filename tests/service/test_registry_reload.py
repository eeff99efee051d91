"""The registry when it is loaded again: what it takes up, what it leaves alone, and what it closes when."""

import gc
import logging
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from colour_model import MODEL, alter, make_store, publish, publish_deviating
from server_process import PATIENCE_SECONDS

from model_store.errors import StoreUnreadableError
from model_store.session import SessionOptions
from model_store.store import BUILTIN_DEFAULT_MODEL, Contents, ModelStore
from model_store.version import Version
from service import served_model
from service.errors import NotFoundError
from service.registry import Registry
from service.served_version import EngineOptions, ServedVersion


def options(_: str) -> EngineOptions:
    return EngineOptions(SessionOptions(), max_batch_size=8)


@pytest.fixture
def registry(store: ModelStore) -> Iterator[Registry]:
    """A registry over an empty store, not yet loaded."""
    registry = Registry(store, options)
    yield registry
    registry.close()


@pytest.fixture
def layered(tmp_path: Path) -> Iterator[Registry]:
    """A registry over an empty store that has a built-in model under it."""
    builtin = make_store(tmp_path / "builtin")
    publish(builtin, BUILTIN_DEFAULT_MODEL)
    registry = Registry(make_store(tmp_path / "published", builtin.root), options)
    yield registry
    registry.close()


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions that were loaded or tried to, in order."""
    tried: list[str] = []

    class Watched(ServedVersion):
        def __init__(self, version: Version, options: EngineOptions) -> None:
            tried.append(str(version))
            super().__init__(version, options)

    monkeypatch.setattr(served_model, "ServedVersion", Watched)
    return tried


def serving(registry: Registry, model: str = MODEL) -> int | None:
    served = registry.models[model].served
    return served.version.number if served else None


def wait_until_closed(registry: Registry) -> None:
    for *_, thread in registry._unloading._closing:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def is_closed(served: ServedVersion) -> bool:
    return not served.take_lease() and served.version._lock._descriptor < 0


def test_promotion_and_rollback_are_taken_up(registry: Registry) -> None:
    """What production names serves after the next look, and what served before is closed."""
    store = registry.store
    publish(store)
    store.promote(MODEL, 1)
    registry.load()
    first = registry.find(MODEL)
    publish(store)
    registry.load()
    assert registry.find(MODEL) is first, "version 2 is not what production names"
    store.promote(MODEL, 2)
    registry.load()
    assert serving(registry) == 2
    wait_until_closed(registry)
    assert is_closed(first)
    store.rollback(MODEL)
    registry.load()
    assert serving(registry) == 1
    assert registry.find(MODEL) is not first


def test_newest_version_is_taken_up_without_an_alias(registry: Registry) -> None:
    """Where nobody promoted anything, publishing is enough."""
    publish(registry.store)
    registry.load()
    publish(registry.store)
    registry.load()
    assert serving(registry) == 2


def test_nothing_new_loads_nothing(registry: Registry, tried: list[str]) -> None:
    """Looking again at a store in which nothing moved opens no version, and leaves the snapshot as it is."""
    publish(registry.store)
    publish_deviating(registry.store, "other")
    registry.load()
    before = registry.models
    registry.load()
    assert tried == [f"{MODEL}/1", "other/1"]
    assert registry.models is before


def test_version_that_fails_never_goes_live_and_is_tried_once(registry: Registry, tried: list[str]) -> None:
    """The one before stays, the reason is kept, later looks do not try again, and promoting it once more does."""
    store = registry.store
    publish(store)
    store.promote(MODEL, 1)
    registry.load()
    first = registry.find(MODEL)
    store.promote(MODEL, publish_deviating(store))
    for _ in range(3):
        registry.load()
        model = registry.models[MODEL]
        assert model.served is first
        assert model.state == "ready"
        assert "differ from training's" in model.errors[2]
    assert registry.ready
    assert tried == [f"{MODEL}/1", f"{MODEL}/2"]
    store.promote(MODEL, 2)
    registry.load()
    assert tried[2:] == [f"{MODEL}/2"]
    assert registry.find(MODEL) is first


def test_version_after_one_that_failed_is_taken_up(registry: Registry) -> None:
    """A good version after a bad one serves, and the bad one's reason goes with the wish that it belonged to."""
    publish(registry.store)
    registry.load()
    publish_deviating(registry.store)
    registry.load()
    publish(registry.store)
    registry.load()
    assert serving(registry) == 3
    assert registry.models[MODEL].errors == {}


def test_rollback_to_a_version_that_fails_leaves_what_serves(registry: Registry) -> None:
    """A ready replica stays ready: when no candidate can be proven, the version that serves goes on, and the reason is shown."""
    store = registry.store
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    store.promote(MODEL, 2)
    registry.load()
    alter(store, 1)
    store.rollback(MODEL)
    registry.load()
    assert serving(registry) == 2
    assert "sha256" in registry.models[MODEL].errors[1]
    assert registry.ready


def test_version_that_can_not_be_read_is_tried_at_every_look_and_named_once(
    registry: Registry, tried: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unreadable file is no fault of its version: it serves as soon as it can be read. What else failed is not tried again."""
    store = registry.store
    publish(store)
    registry.load()
    publish(store)
    publish_deviating(store)

    def fail(version: Version) -> None:
        if version.number == 2:
            raise StoreUnreadableError("Input/output error")
        verify(version)

    verify = Version.verify
    monkeypatch.setattr(Version, "verify", fail)
    for _ in range(3):
        registry.load()
    assert serving(registry) == 1
    assert registry.models[MODEL].errors[2] == "it can not be read"
    assert [
        record.message for record in caplog.records if record.levelno == logging.ERROR and "Input/output" in record.message
    ] == [f"{MODEL}/2 is not served: Input/output error"]
    monkeypatch.setattr(Version, "verify", verify)
    registry.load()
    registry.load()
    assert serving(registry) == 2
    assert sorted(registry.models[MODEL].errors) == [3]
    assert tried == [f"{MODEL}/1", f"{MODEL}/3", f"{MODEL}/2"]


def test_model_that_appears_is_served(registry: Registry) -> None:
    """A model that came after the start serves, and one that can not be proven is shown with its reason."""
    publish(registry.store)
    registry.load()
    publish(registry.store, "new")
    publish_deviating(registry.store, "broken")
    registry.load()
    assert serving(registry, "new") == 1
    assert registry.models["broken"].state == "error"
    assert 1 in registry.models["broken"].errors
    assert registry.ready


def test_first_model_of_an_empty_store_makes_the_replica_ready(registry: Registry) -> None:
    """A service that was started before anything was published becomes ready by the first publish."""
    registry.load()
    assert not registry.ready
    publish(registry.store)
    registry.load()
    assert registry.ready


def test_model_that_is_gone_is_unloaded_once_its_leases_are_back(registry: Registry) -> None:
    """New requests are told that it does not exist; one that has it finishes on it, and then it is closed."""
    publish(registry.store)
    publish(registry.store, "other")
    registry.load()
    with registry.lease(MODEL) as served:
        shutil.rmtree(registry.store.root / MODEL)
        registry.load()
        with pytest.raises(NotFoundError):
            registry.find(MODEL)
        ((*_, closing),) = registry._unloading._closing
        assert closing.is_alive()
        assert not served.batcher._closing
    wait_until_closed(registry)
    assert is_closed(served)
    assert registry.ready


@pytest.mark.parametrize("default", [None, MODEL], ids=["last", "default"])
def test_model_that_readiness_needs_serves_on_when_it_is_gone(store: ModelStore, default: str | None) -> None:
    """A reload never makes a ready replica unready: the last model, or the one that was set, goes on until it is replaced."""
    publish(store)
    if default:
        publish(store, "other")
    registry = Registry(store, options, default)
    registry.load()
    gone = registry.find(MODEL)
    shutil.rmtree(store.root / MODEL)
    for _ in range(2):
        registry.load()
    model = registry.models[MODEL]
    assert (model.served, model.state) == (gone, "unloading")
    assert "gone from the store" in (model.error or "")
    assert registry.ready
    if default is None:
        publish(store, "other")
        registry.load()
        assert sorted(registry.models) == ["other"]
    publish(store)  # another version 1 than the one that was loaded
    registry.load()
    assert registry.find(MODEL) is not gone
    assert (registry.models[MODEL].state, registry.models[MODEL].error) == ("ready", None)
    registry.close()


def test_published_model_replaces_the_built_in_one_and_back(layered: Registry) -> None:
    """A published model of a built-in one's name takes its place although both are version 1, and gives it back when it is gone."""
    layered.load()
    builtin = layered.find(None)
    publish(layered.store, BUILTIN_DEFAULT_MODEL)
    layered.load()
    published = layered.find(None)
    assert (builtin.version.layer, published.version.layer) == ("built-in", "published")
    assert layered.models[BUILTIN_DEFAULT_MODEL].layer == "published"
    shutil.rmtree(layered.store.root / BUILTIN_DEFAULT_MODEL)
    layered.load()
    assert layered.find(None).version.layer == "built-in"
    wait_until_closed(layered)
    assert is_closed(builtin)
    assert is_closed(published)


def test_published_model_that_fails_leaves_the_built_in_one(layered: Registry) -> None:
    """The built-in version goes on, and the published one's reason is kept although it has the same number."""
    layered.load()
    publish_deviating(layered.store, BUILTIN_DEFAULT_MODEL)
    layered.load()
    assert layered.find(None).version.layer == "built-in"
    assert "differ from training's" in layered.models[BUILTIN_DEFAULT_MODEL].errors[1]


def test_published_model_becomes_the_default_once_it_serves(layered: Registry) -> None:
    """The only published model answers /v1/predict; one that fails its proof does not take that from the built-in one."""
    layered.load()
    publish_deviating(layered.store, "mine")
    layered.load()
    assert layered.default_model == BUILTIN_DEFAULT_MODEL
    assert layered.find(None).version.model == BUILTIN_DEFAULT_MODEL
    publish(layered.store, "mine")
    layered.load()
    assert layered.find(None).version.model == "mine"


def test_second_published_model_leaves_the_default(registry: Registry) -> None:
    """A publish does not take /v1/predict from the model that answers it, though one that starts now has no default."""
    publish(registry.store, "one")
    registry.load()
    publish(registry.store, "two")
    registry.load()
    assert registry.find(None).version.model == "one"
    fresh = Registry(registry.store, options)
    fresh.load()
    assert fresh.default_model is None
    fresh.close()


def test_unreadable_store_unloads_nothing_and_is_said_once(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """What serves goes on, the log has one line however often one looks, and what was published meanwhile is then taken up."""
    publish(registry.store)
    registry.load()
    hidden = registry.store.root.with_name("hidden")
    registry.store.root.rename(hidden)
    for _ in range(3):
        registry.load()
    assert serving(registry) == 1
    assert registry.ready
    assert "can not be read" in (registry.error or "")
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    hidden.rename(registry.store.root)
    publish(registry.store)
    registry.load()
    assert registry.error is None
    assert serving(registry) == 2


def test_start_with_an_unreadable_store_recovers(tmp_path: Path) -> None:
    """A service whose store comes late loads it as it would have at the start."""
    registry = Registry(ModelStore(tmp_path / "store", builtin_root=None), options)
    registry.load()
    assert (registry.loaded, registry.ready) == (False, False)
    publish(make_store(tmp_path / "store"))
    registry.load()
    assert (registry.loaded, registry.ready, registry.error) == (True, True, None)
    registry.close()


def test_look_that_fails_by_surprise_leaves_what_serves(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that nobody foresaw ends one look and not the service; the log has its traceback once."""
    publish(registry.store)
    registry.load()

    def fail() -> dict[str, Contents]:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(registry.store, "contents", fail)
        registry.load()
        registry.load()
    assert [bool(record.exc_info) for record in caplog.records if record.levelno == logging.ERROR] == [True]
    assert registry.ready
    registry.load()
    assert registry.error is None


def damage_event(directory: Path) -> None:
    (directory / "aliases" / "production" / "00000002.json").write_text("{")


def block_aliases(directory: Path) -> None:
    shutil.rmtree(directory / "aliases")
    (directory / "aliases").write_text("")


@pytest.mark.parametrize("damage", [damage_event, block_aliases])
def test_aliases_that_can_not_be_read_change_nothing(
    registry: Registry, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A model whose wish can not be read serves what it did, says so once, and follows again when it can be read."""
    store = registry.store
    publish(store)
    store.promote(MODEL, 1)
    registry.load()
    publish(store)
    damage(store.root / MODEL)
    for _ in range(3):
        registry.load()
    model = registry.models[MODEL]
    assert (serving(registry), model.state) == (1, "ready")
    assert model.error
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    directory = store.root / MODEL / "aliases"
    if directory.is_file():
        directory.unlink()
    else:
        shutil.rmtree(directory)
    registry.load()
    assert (serving(registry), registry.models[MODEL].error) == (2, None)


def test_reason_goes_when_the_same_wish_can_be_read_again(registry: Registry) -> None:
    """A trouble that passed and left nothing new is forgotten."""
    store = registry.store
    publish(store)
    store.promote(MODEL, 1)
    registry.load()
    served = registry.find(MODEL)
    event = store.root / MODEL / "aliases" / "production" / "00000002.json"
    event.write_text("{")
    registry.load()
    assert registry.models[MODEL].error
    event.unlink()
    registry.load()
    assert registry.models[MODEL].error is None
    assert registry.find(MODEL) is served


def test_lease_that_comes_too_late_is_taken_on_the_successor(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that was swapped out between being found and being leased gives no lease, and the request gets the next one."""
    publish(registry.store)
    registry.load()
    late = registry.find(MODEL)
    publish(registry.store)
    registry.load()
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
    registry.load()
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
        registry.load()
        assert serving(registry) == number
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert leased == {1, 2}
    assert closed == []


def test_close_waits_for_what_is_still_being_unloaded(registry: Registry) -> None:
    """At the end nothing is left behind: neither what serves nor what was swapped out and is still leased."""
    publish(registry.store)
    registry.load()
    publish(registry.store)
    closing = threading.Thread(target=registry.close)
    with registry.lease(MODEL) as first:
        registry.load()
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
    registry.load()
    session = weakref.ref(registry.find(MODEL).choice.session)
    gc.collect()
    gc.disable()
    try:
        publish(registry.store)
        registry.load()
        wait_until_closed(registry)
        assert session() is None
    finally:
        gc.enable()
