"""Reconciliation of a store, model or version that cannot be read."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from colour_model import MODEL, make_store, publish
from registries import options, serving
from unprivileged import unprivileged

from model_store.store import BUILTIN_DEFAULT_MODEL, ModelContents, ModelStore
from service.versions.reconciler import reconcile
from service.versions.registry import Registry


def test_unreadable_store_unloads_nothing(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """With an unreadable store everything serves on, and the log has one line."""
    publish(registry.store)
    reconcile(registry)
    hidden = registry.store.root.with_name("hidden")
    registry.store.root.rename(hidden)
    for _ in range(3):
        reconcile(registry)
    assert serving(registry) == 1
    assert registry.ready
    assert registry.error
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    hidden.rename(registry.store.root)
    publish(registry.store)
    reconcile(registry)
    assert registry.error is None
    assert serving(registry) == 2


def test_start_with_an_unreadable_store_recovers(tmp_path: Path) -> None:
    """A store that becomes readable after startup is loaded."""
    registry = Registry(ModelStore(tmp_path / "store", builtin_root=None), options)
    reconcile(registry)
    assert (registry.loaded, registry.ready) == (False, False)
    publish(make_store(tmp_path / "store"))
    reconcile(registry)
    assert (registry.loaded, registry.ready, registry.error) == (True, True, None)
    registry.close()


def test_built_in_models_serve_until_the_store_appears(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The replica is not ready meanwhile. A store that disappears again unloads nothing."""
    builtin = make_store(tmp_path / "builtin")
    publish(builtin, BUILTIN_DEFAULT_MODEL)
    store = ModelStore(tmp_path / "store", builtin.root, may_appear=True)
    registry = Registry(store, options, BUILTIN_DEFAULT_MODEL)
    for _ in range(2):
        reconcile(registry)
        assert (registry.loaded, registry.ready) == (False, False)
        assert registry.error
        assert registry.find(None).version.layer == "built-in"
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    publish(make_store(store.root))
    reconcile(registry)
    assert (registry.loaded, registry.ready, registry.error) == (True, True, None)
    assert serving(registry) == 1
    store.root.rename(tmp_path / "hidden")
    reconcile(registry)
    assert registry.error
    assert serving(registry) == 1
    registry.close()


def test_store_that_appears_while_it_is_listed_is_not_taken_for_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start waits for what it contains."""
    builtin = make_store(tmp_path / "builtin")
    publish(builtin, BUILTIN_DEFAULT_MODEL)
    store = ModelStore(tmp_path / "store", builtin.root, may_appear=True)
    registry = Registry(store, options)

    def list_then_appear() -> dict[str, ModelContents]:
        contents = ModelStore.contents(store)
        publish(make_store(store.root))
        return contents

    with monkeypatch.context() as patch:
        patch.setattr(store, "contents", list_then_appear)
        reconcile(registry)
    assert not registry.loaded
    reconcile(registry)
    assert (registry.loaded, serving(registry)) == (True, 1)
    registry.close()


def test_unexpected_error_is_logged_once(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error changes nothing, and its traceback is logged once."""
    publish(registry.store)
    reconcile(registry)

    def fail() -> dict[str, ModelContents]:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(registry.store, "contents", fail)
        reconcile(registry)
        reconcile(registry)
    assert [
        bool(record.exc_info) for record in caplog.records if record.levelno == logging.ERROR
    ] == [True]
    assert registry.ready
    reconcile(registry)
    assert registry.error is None


def damage_event(directory: Path) -> None:
    (directory / "aliases" / "production" / "00000002.json").write_text("{")


def block_aliases(directory: Path) -> None:
    shutil.rmtree(directory / "aliases")
    (directory / "aliases").write_text("")


@pytest.mark.parametrize("damage", [damage_event, block_aliases])
def test_unreadable_aliases_change_nothing(
    registry: Registry, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A model with unreadable aliases serves on, is logged once, and is followed again later."""
    store = registry.store
    publish(store)
    store.promote(MODEL, 1)
    reconcile(registry)
    publish(store)
    damage(store.root / MODEL)
    for _ in range(3):
        reconcile(registry)
    model = registry.models[MODEL]
    assert (serving(registry), model.state) == (1, "ready")
    assert model.error
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    directory = store.root / MODEL / "aliases"
    if directory.is_file():
        directory.unlink()
    else:
        shutil.rmtree(directory)
    reconcile(registry)
    assert (serving(registry), registry.models[MODEL].error) == (2, None)


def test_error_is_cleared_when_the_aliases_are_readable(registry: Registry) -> None:
    """The error of a model is cleared even if nothing else has changed."""
    store = registry.store
    publish(store)
    store.promote(MODEL, 1)
    reconcile(registry)
    served = registry.find(MODEL)
    event = store.root / MODEL / "aliases" / "production" / "00000002.json"
    event.write_text("{")
    reconcile(registry)
    assert registry.models[MODEL].error
    event.unlink()
    reconcile(registry)
    assert registry.models[MODEL].error is None
    assert registry.find(MODEL) is served


@pytest.mark.parametrize("place", ["broken", "broken/1"])
def test_unreadable_model_does_not_affect_others(registry: Registry, place: str) -> None:
    """An unreadable model serves on, and the others follow the store."""
    store = registry.store
    publish(store)
    publish(store, "broken")
    directory = store.root / place
    with unprivileged():
        directory.chmod(0)
        reconcile(registry)
        assert (registry.loaded, registry.ready, registry.error) == (True, True, None)
        model = registry.models["broken"]
        assert (model.state, model.error is None) == ("error", False)
        directory.chmod(0o755)
        reconcile(registry)
        assert serving(registry, "broken") == 1
        publish(store, "broken")
        publish(store)
        directory.chmod(0)
        reconcile(registry)
        assert (serving(registry), serving(registry, "broken")) == (2, 1)
        directory.chmod(0o755)
        reconcile(registry)
    assert (serving(registry, "broken"), registry.models["broken"].error) == (2, None)
