"""The registry when it is loaded again: what it takes up and what it leaves alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from colour_model import MODEL, alter, make_store, publish, publish_deviating
from registries import is_closed, options, serving, wait_until_closed

from model_store.errors import StoreUnreadableError
from model_store.store import BUILTIN_DEFAULT_MODEL, ModelStore
from model_store.version import Version
from service.engine.loaded_version import LoadedVersion
from service.engine.options import EngineOptions
from service.versions import loading as loading_module
from service.versions.reconciler import reconcile
from service.versions.registry import Registry


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

    class Watched(LoadedVersion):
        def __init__(self, version: Version, options: EngineOptions) -> None:
            tried.append(str(version))
            super().__init__(version, options)

    monkeypatch.setattr(loading_module, "LoadedVersion", Watched)
    return tried


def test_promotion_and_rollback_are_taken_up(registry: Registry) -> None:
    """What production names serves after the next look, and what served before is closed."""
    store = registry.store
    publish(store)
    store.promote(MODEL, 1)
    reconcile(registry)
    first = registry.find(MODEL)
    publish(store)
    reconcile(registry)
    assert registry.find(MODEL) is first, "version 2 is not what production names"
    store.promote(MODEL, 2)
    reconcile(registry)
    assert serving(registry) == 2
    wait_until_closed(registry)
    assert is_closed(first)
    store.rollback(MODEL)
    reconcile(registry)
    assert serving(registry) == 1
    assert registry.find(MODEL) is not first


def test_newest_version_is_taken_up_without_an_alias(registry: Registry) -> None:
    """Where nobody promoted anything, publishing is enough."""
    publish(registry.store)
    reconcile(registry)
    publish(registry.store)
    reconcile(registry)
    assert serving(registry) == 2


def test_nothing_new_loads_nothing(registry: Registry, tried: list[str]) -> None:
    """Looking again at a store in which nothing moved opens no version, and leaves the snapshot as it is."""
    publish(registry.store)
    publish_deviating(registry.store, "other")
    reconcile(registry)
    before = registry.models
    reconcile(registry)
    assert tried == [f"{MODEL}/1", "other/1"]
    assert registry.models is before


def test_version_that_fails_never_goes_live_and_is_tried_once(
    registry: Registry, tried: list[str]
) -> None:
    """The one before stays, the reason is kept, later looks do not try again, and promoting it once more does."""
    store = registry.store
    publish(store)
    store.promote(MODEL, 1)
    reconcile(registry)
    first = registry.find(MODEL)
    store.promote(MODEL, publish_deviating(store))
    for _ in range(3):
        reconcile(registry)
        model = registry.models[MODEL]
        assert model.answering is first
        assert model.state == "ready"
        assert sorted(model.errors) == [2]
    assert registry.ready
    assert tried == [f"{MODEL}/1", f"{MODEL}/2"]
    store.promote(MODEL, 2)
    reconcile(registry)
    assert tried[2:] == [f"{MODEL}/2"]
    assert registry.find(MODEL) is first


def test_version_after_one_that_failed_is_taken_up(registry: Registry) -> None:
    """A good version after a bad one serves, and the bad one's reason goes with the wish that it belonged to."""
    publish(registry.store)
    reconcile(registry)
    publish_deviating(registry.store)
    reconcile(registry)
    publish(registry.store)
    reconcile(registry)
    assert serving(registry) == 3
    assert registry.models[MODEL].errors == {}


def test_rollback_to_a_version_that_fails_leaves_what_serves(registry: Registry) -> None:
    """A ready replica stays ready: when no candidate can be proven, the version that serves goes on, and the reason is shown."""
    store = registry.store
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    store.promote(MODEL, 2)
    reconcile(registry)
    alter(store, 1)
    store.rollback(MODEL)
    reconcile(registry)
    assert serving(registry) == 2
    assert sorted(registry.models[MODEL].errors) == [1]
    assert registry.ready


def test_version_that_can_not_be_read_is_tried_at_every_look_and_named_once(
    registry: Registry,
    tried: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An unreadable file is no fault of its version: it serves as soon as it can be read. What else failed is not tried again."""
    store = registry.store
    publish(store)
    reconcile(registry)
    publish(store)
    publish_deviating(store)

    def fail(version: Version) -> None:
        if version.number == 2:
            raise StoreUnreadableError("Input/output error")
        verify(version)

    verify = Version.verify
    monkeypatch.setattr(Version, "verify", fail)
    for _ in range(3):
        reconcile(registry)
    assert serving(registry) == 1
    assert sorted(registry.models[MODEL].unreadable) == [2]
    failures = [message for message in caplog.messages if "Input/output error" in message]
    assert len(failures) == 1
    assert failures[0].startswith(f"version failed model={MODEL} version=2 ")
    monkeypatch.setattr(Version, "verify", verify)
    reconcile(registry)
    reconcile(registry)
    assert serving(registry) == 2
    assert sorted(registry.models[MODEL].errors) == [3]
    assert tried == [f"{MODEL}/1", f"{MODEL}/3", f"{MODEL}/2"]


def test_model_that_appears_is_served(registry: Registry) -> None:
    """A model that came after the start serves, and one that can not be proven is shown with its reason."""
    publish(registry.store)
    reconcile(registry)
    publish(registry.store, "new")
    publish_deviating(registry.store, "broken")
    reconcile(registry)
    assert serving(registry, "new") == 1
    assert registry.models["broken"].state == "error"
    assert 1 in registry.models["broken"].errors
    assert registry.ready


def test_first_model_of_an_empty_store_makes_the_replica_ready(registry: Registry) -> None:
    """A service that was started before anything was published becomes ready by the first publish."""
    reconcile(registry)
    assert not registry.ready
    publish(registry.store)
    reconcile(registry)
    assert registry.ready


@pytest.mark.parametrize("default", [None, MODEL], ids=["last", "default"])
def test_model_that_readiness_needs_serves_on_when_it_is_gone(
    store: ModelStore, default: str | None
) -> None:
    """A reload never makes a ready replica unready: the last model, or the one that was set, goes on until it is replaced."""
    publish(store)
    if default:
        publish(store, "other")
    registry = Registry(store, options, default)
    reconcile(registry)
    gone = registry.find(MODEL)
    shutil.rmtree(store.root / MODEL)
    for _ in range(2):
        reconcile(registry)
    model = registry.models[MODEL]
    assert (model.answering, model.state) == (gone, "unloading")
    assert model.error
    assert registry.ready
    if default is None:
        publish(store, "other")
        reconcile(registry)
        assert sorted(registry.models) == ["other"]
    publish(store)  # another version 1 than the one that was loaded
    reconcile(registry)
    assert registry.find(MODEL) is not gone
    assert (registry.models[MODEL].state, registry.models[MODEL].error) == ("ready", None)
    registry.close()


def test_published_model_replaces_the_built_in_one_and_back(layered: Registry) -> None:
    """A published model of a built-in one's name takes its place although both are version 1, and gives it back when it is gone."""
    reconcile(layered)
    builtin = layered.find(None)
    publish(layered.store, BUILTIN_DEFAULT_MODEL)
    reconcile(layered)
    published = layered.find(None)
    assert (builtin.version.layer, published.version.layer) == ("built-in", "published")
    assert layered.models[BUILTIN_DEFAULT_MODEL].layer == "published"
    shutil.rmtree(layered.store.root / BUILTIN_DEFAULT_MODEL)
    reconcile(layered)
    assert layered.find(None).version.layer == "built-in"
    wait_until_closed(layered)
    assert is_closed(builtin)
    assert is_closed(published)


def test_published_model_that_fails_leaves_the_built_in_one(layered: Registry) -> None:
    """The built-in version goes on, and the published one's reason is kept although it has the same number."""
    reconcile(layered)
    publish_deviating(layered.store, BUILTIN_DEFAULT_MODEL)
    reconcile(layered)
    assert layered.find(None).version.layer == "built-in"
    assert sorted(layered.models[BUILTIN_DEFAULT_MODEL].errors) == [1]


def test_published_model_becomes_the_default_once_it_serves(layered: Registry) -> None:
    """The only published model answers /v1/predict; one that fails its proof does not take that from the built-in one."""
    reconcile(layered)
    publish_deviating(layered.store, "mine")
    reconcile(layered)
    assert layered.default_model == BUILTIN_DEFAULT_MODEL
    assert layered.find(None).version.model == BUILTIN_DEFAULT_MODEL
    publish(layered.store, "mine")
    reconcile(layered)
    assert layered.find(None).version.model == "mine"


def test_second_published_model_leaves_the_default(registry: Registry) -> None:
    """A publish does not take /v1/predict from the model that answers it, though one that starts now has no default."""
    publish(registry.store, "one")
    reconcile(registry)
    publish(registry.store, "two")
    reconcile(registry)
    assert registry.find(None).version.model == "one"
    fresh = Registry(registry.store, options)
    reconcile(fresh)
    assert fresh.default_model is None
    fresh.close()
