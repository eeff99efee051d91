"""What reconciliation loads, keeps and unloads."""

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from colour_model import MODEL, alter, make_store, publish, publish_deviating
from registries import is_closed, options, serving, wait_until_closed

from model_store.errors import (
    ModelRunError,
    ModelStoreError,
    StoreUnreadableError,
    VersionCorruptError,
)
from model_store.files import DirectoryLock
from model_store.store import BUILTIN_DEFAULT_MODEL, ModelStore
from model_store.version import Version
from service.engine import warm_model
from service.engine.loaded_version import LoadedVersion
from service.errors import ConflictError
from service.host.thread_priority import BACKGROUND_NICENESS, NICENESS
from service.versions import draining
from service.versions import loading as loading_module
from service.versions.operations import Operations
from service.versions.reconciler import reconcile
from service.versions.registry import Registry


@pytest.fixture
def layered(tmp_path: Path) -> Iterator[Registry]:
    """A registry over an empty store with a built-in model."""
    builtin = make_store(tmp_path / "builtin")
    publish(builtin, BUILTIN_DEFAULT_MODEL)
    registry = Registry(
        make_store(tmp_path / "published", builtin.root), options, BUILTIN_DEFAULT_MODEL
    )
    yield registry
    registry.close()


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions that were loaded, or failed to, in order."""
    tried: list[str] = []

    class Watched(LoadedVersion):
        def __init__(self, version: Version, *arguments: Any, **named: Any) -> None:
            tried.append(str(version))
            super().__init__(version, *arguments, **named)

    monkeypatch.setattr(loading_module, "LoadedVersion", Watched)
    return tried


def test_promotion_and_rollback_are_followed(registry: Registry) -> None:
    """The promoted version serves, and the one before is closed."""
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


def test_newest_version_serves_without_an_alias(registry: Registry) -> None:
    """Without an alias, publishing a version is enough."""
    publish(registry.store)
    reconcile(registry)
    publish(registry.store)
    reconcile(registry)
    assert serving(registry) == 2


def test_unchanged_store_loads_nothing(registry: Registry, tried: list[str]) -> None:
    """Reconciling an unchanged store loads nothing and leaves the models as they are."""
    publish(registry.store)
    publish_deviating(registry.store, "other")
    reconcile(registry)
    before = registry.models
    reconcile(registry)
    assert tried == [f"{MODEL}/1", "other/1"]
    assert registry.models is before


def test_failed_version_is_tried_once(registry: Registry, tried: list[str]) -> None:
    """A failed version is tried again only after another promotion."""
    store = registry.store
    publish(store)
    store.promote(MODEL, 1)
    reconcile(registry)
    first = registry.find(MODEL)
    store.promote(MODEL, publish_deviating(store))
    for _ in range(3):
        reconcile(registry)
        model = registry.models[MODEL]
        assert model.default_version is first
        assert model.state == "ready"
        assert sorted(model.errors) == [2]
    assert registry.ready
    assert tried == [f"{MODEL}/1", f"{MODEL}/2"]
    store.promote(MODEL, 2)
    reconcile(registry)
    assert tried[2:] == [f"{MODEL}/2"]
    assert registry.find(MODEL) is first


def test_version_after_a_failed_one_serves(registry: Registry) -> None:
    """A good version after a bad one serves and clears the error."""
    publish(registry.store)
    reconcile(registry)
    publish_deviating(registry.store)
    reconcile(registry)
    publish(registry.store)
    reconcile(registry)
    assert serving(registry) == 3
    assert registry.models[MODEL].errors == {}


def test_rollback_to_a_failing_version_keeps_the_current_one(registry: Registry) -> None:
    """If no candidate passes, the current version serves on."""
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


def test_unreadable_version_is_retried_and_logged_once(
    registry: Registry,
    tried: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An unreadable version is retried at every reconciliation and logged once."""
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
    assert sorted(registry.models[MODEL].retry_at) == [2]
    failures = [message for message in caplog.messages if "Input/output error" in message]
    assert len(failures) == 1
    assert failures[0].startswith(f"version failed model={MODEL} version=2 ")
    monkeypatch.setattr(Version, "verify", verify)
    reconcile(registry)
    reconcile(registry)
    assert serving(registry) == 2
    assert sorted(registry.models[MODEL].errors) == [3]
    assert tried == [f"{MODEL}/1", f"{MODEL}/3", f"{MODEL}/2"]


def test_unreadable_version_that_then_fails_is_not_retried(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that could be read and failed is a failed version from then on."""
    errors: list[ModelStoreError] = [StoreUnreadableError("Input/output error")]
    attempts: list[int] = []

    def fail(version: Version) -> None:
        attempts.append(version.number)
        raise errors[-1]

    publish(registry.store)
    reconcile(registry)
    publish(registry.store)
    monkeypatch.setattr(Version, "verify", fail)
    for _ in range(2):
        reconcile(registry)
    assert attempts == [2, 2]
    errors.append(VersionCorruptError("a damaged file"))
    with pytest.raises(ConflictError):
        Operations(registry).load(MODEL, 2)
    reconcile(registry)
    assert attempts == [2, 2, 2]


@pytest.mark.parametrize(
    "shortage",
    [
        RuntimeError("can't start new thread"),
        MemoryError(),
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        ModelRunError("ONNX Runtime cannot load model.onnx: pthread_create failed"),
        ModelRunError("ONNX Runtime cannot load model.onnx: std::bad_alloc"),
    ],
    ids=str,
)
def test_shortage_of_the_host_is_not_the_fault_of_the_version(
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    shortage: Exception,
) -> None:
    """Loading is tried again when threads, memory or descriptors were short, and logged once."""
    publish(registry.store)

    def fail(*_: object) -> None:
        raise shortage

    with monkeypatch.context() as patch:
        patch.setattr(warm_model, "select_variant", fail)
        for _ in range(2):
            reconcile(registry)
            assert serving(registry) is None
    assert len([line for line in caplog.messages if line.startswith("version failed")]) == 1
    reconcile(registry)
    assert serving(registry) == 1


@pytest.mark.parametrize("started", [0, 1, 2])
def test_version_whose_threads_cannot_start_leaves_none_behind(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    """What was started before the host ran out of threads ends, and the version is unlocked."""
    publish(registry.store)
    registry.options_of = lambda _: replace(options(MODEL), instances=2, run_timeout_seconds=9.0)
    before, start, starts = threading.active_count(), threading.Thread.start, iter(range(99))

    def start_some(thread: threading.Thread) -> None:
        if next(starts) >= started:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_some)
        reconcile(registry)
    assert next(starts) == started + 1
    assert threading.active_count() == before
    DirectoryLock(registry.store.root / MODEL / "1", exclusive=True).release()
    reconcile(registry)
    assert serving(registry) == 1


def test_new_model_serves(registry: Registry) -> None:
    """A model that is published later serves, and one that fails is shown as an error."""
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
    """The first published model makes the replica ready."""
    reconcile(registry)
    assert not registry.ready
    publish(registry.store)
    reconcile(registry)
    assert registry.ready


@pytest.mark.parametrize("default", [None, MODEL], ids=["last", "default"])
def test_deleted_model_serves_on_if_readiness_depends_on_it(
    store: ModelStore, default: str | None
) -> None:
    """A deleted model serves until the replica is ready without it."""
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
    assert (model.default_version, model.state) == (gone, "unloading")
    assert model.error
    assert registry.ready
    if default is None:
        publish(store, "other")
        reconcile(registry)
        assert sorted(registry.models) == ["other"]
    publish(store)  # version 1 again, with other files
    reconcile(registry)
    assert registry.find(MODEL) is not gone
    assert (registry.models[MODEL].state, registry.models[MODEL].error) == ("ready", None)
    registry.close()


def test_published_model_replaces_the_built_in_one_and_back(layered: Registry) -> None:
    """A published model replaces the built-in one of its name until it is deleted."""
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
    """The built-in version serves on if the published one fails."""
    reconcile(layered)
    publish_deviating(layered.store, BUILTIN_DEFAULT_MODEL)
    reconcile(layered)
    assert layered.find(None).version.layer == "built-in"
    assert sorted(layered.models[BUILTIN_DEFAULT_MODEL].errors) == [1]


def test_published_models_leave_the_default(layered: Registry) -> None:
    """Models that are published while the service runs never change the default."""
    reconcile(layered)
    for name in ("one", "two"):
        publish(layered.store, name)
        reconcile(layered)
        assert serving(layered, name) == 1
        assert layered.default_model == BUILTIN_DEFAULT_MODEL
        assert layered.find(None).version.model == BUILTIN_DEFAULT_MODEL


def test_deleted_model_leaves_nothing_behind(registry: Registry) -> None:
    """A deleted model takes its overrides and its cached aliases with it."""
    for name in (MODEL, "other"):
        publish(registry.store, name)
        publish(registry.store, name)
    reconcile(registry)
    Operations(registry).load(MODEL, 1)
    shutil.rmtree(registry.store.root / MODEL)
    reconcile(registry)
    assert registry.overrides(MODEL) == {}
    assert {name for name, _ in registry.desired._cache} == {"other"}
    publish(registry.store)
    publish(registry.store)
    reconcile(registry)
    assert sorted(registry.models[MODEL].serving) == [2]


def test_memory_is_returned_after_a_version_has_closed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reconciliation after a version has closed returns its memory, once."""
    trims: list[None] = []
    publish(registry.store)
    reconcile(registry)
    publish(registry.store)
    with registry.lease(MODEL):
        reconcile(registry)
        monkeypatch.setattr(draining, "trim_memory", lambda: trims.append(None))
        reconcile(registry)
        assert trims == []
    wait_until_closed(registry)
    for _ in range(2):
        reconcile(registry)
    assert len(trims) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere niceness belongs to the process")
def test_later_versions_load_in_the_background(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their files are compared and their session is warmed up by a thread of low priority.

    At the start no request waits, so the first version is loaded by the calling thread. The threads
    that run models do not inherit the low priority.
    """
    seen: dict[str, list[int]] = {"verify": [], "warm_up": []}

    def niceness(thread: int) -> int:
        return os.getpriority(os.PRIO_PROCESS, thread)

    def recording(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def record(*arguments: Any, **options: Any) -> Any:
            seen[what].append(niceness(threading.get_native_id()))
            return function(*arguments, **options)

        return record

    monkeypatch.setattr(Version, "verify", recording("verify", Version.verify))
    monkeypatch.setattr(warm_model, "warm_up", recording("warm_up", warm_model.warm_up))
    before = niceness(threading.get_native_id())
    later = max(before, BACKGROUND_NICENESS)
    registry = Registry(store, options, MODEL)
    try:
        for number, expected in ((1, before), (2, later)):
            publish(store)
            store.promote(MODEL, number)
            seen |= {"verify": [], "warm_up": []}
            reconcile(registry)
            assert seen == {"verify": [expected], "warm_up": [expected]}
            assert serving(registry) == number
            for thread in registry.find(MODEL, number).batcher._threads:
                assert thread.native_id
                assert niceness(thread.native_id) in {before, max(before, NICENESS)}
        assert niceness(threading.get_native_id()) == before
    finally:
        registry.close()
