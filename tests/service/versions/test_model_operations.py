"""Loading and unloading a whole model, as the Open Inference routes do."""

import pytest
from colour_model import MODEL, alter, publish, publish_deviating
from registries import options, serving

from model_store.store import ModelStore
from service.errors import ConflictError, NotFoundError
from service.versions.operations import Operations
from service.versions.readiness import RequiredModels
from service.versions.reconciler import reconcile
from service.versions.registry import Registry
from service.versions.version_policy import parse_policy


def test_unloaded_model_serves_again_after_load(store: ModelStore) -> None:
    """All of its versions are unloaded, and no reconciliation brings them back."""
    publish(store, "other")
    for _ in range(2):
        publish(store)
    registry = Registry(
        store, options, policy_of=lambda _: parse_policy("all"), required=RequiredModels("other")
    )
    reconcile(registry)
    registry.required.forget(MODEL)
    operations = Operations(registry)
    assert operations.unload_model(MODEL).state == "unloaded"
    reconcile(registry)
    assert not registry.models[MODEL].serving
    assert operations.load_model(MODEL).state == "ready"
    assert sorted(registry.models[MODEL].serving) == [1, 2]
    registry.close()


@pytest.mark.parametrize("count", [1, 2])
def test_model_that_must_serve_is_not_unloaded(store: ModelStore, count: int) -> None:
    """Not even if it has several versions."""
    for _ in range(count):
        publish(store)
    registry = Registry(store, options, policy_of=lambda _: parse_policy("all"))
    reconcile(registry)
    with pytest.raises(ConflictError) as caught:
        Operations(registry).unload_model(MODEL)
    assert caught.value.code == "last_version"
    assert len(registry.models[MODEL].serving) == count
    assert not registry.overrides(MODEL)
    registry.close()


def test_load_reports_why_no_version_can_serve(registry: Registry, store: ModelStore) -> None:
    """A version that failed is tried again; a new one is found without waiting for a poll."""
    publish_deviating(store)
    reconcile(registry)
    operations = Operations(registry)
    with pytest.raises(ConflictError) as caught:
        operations.load_model(MODEL)
    assert caught.value.code == "version_failed"
    publish(store)
    assert operations.load_model(MODEL).version == 2
    publish(store, "new")
    assert operations.load_model("new").version == 1


def test_failed_version_is_tried_again(registry: Registry, store: ModelStore) -> None:
    """It may have been repaired meanwhile."""
    publish(store)
    alter(store, 1)
    reconcile(registry)
    assert serving(registry) is None
    alter(store, 1)  # flips the bit back
    reconcile(registry)
    assert serving(registry) is None
    assert Operations(registry).load_model(MODEL).version == 1


@pytest.mark.parametrize("name", ["load_model", "unload_model"])
def test_unknown_model_does_not_exist(registry: Registry, store: ModelStore, name: str) -> None:
    """Neither can be done to a model that the store lacks."""
    publish(store)
    reconcile(registry)
    with pytest.raises(NotFoundError):
        getattr(Operations(registry), name)("none")
