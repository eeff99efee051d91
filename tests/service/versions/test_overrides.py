"""Several versions of a model, and the versions that an operator loads and unloads."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from colour_model import MODEL, alter, make_store, publish, publish_deviating
from registries import options

from model_store.errors import ModelNotFoundError, StoreUnreadableError
from model_store.store import ModelStore
from service.errors import BadRequestError, ConflictError, NotFoundError, NotReadyError
from service.versions.desired_versions import Override
from service.versions.loading import prove_version
from service.versions.operations import Operations
from service.versions.readiness import RequiredModels
from service.versions.reconciler import apply_store, reconcile
from service.versions.registry import Registry
from service.versions.registry_change import RegistryChange
from service.versions.served_model import ServedModel
from service.versions.version_policy import parse_policy

Make = Callable[..., Registry]


@pytest.fixture
def make(store: ModelStore, request: pytest.FixtureRequest) -> Make:
    """Create and reconcile a registry with a policy and required models."""

    def make(policy: str, required: Sequence[str] | None = None) -> Registry:
        models = RequiredModels(required=required)
        registry = Registry(
            store, options, policy_of=lambda _: parse_policy(policy), required=models
        )
        request.addfinalizer(registry.close)
        reconcile(registry)
        return registry

    return make


def serving(registry: Registry, model: str = MODEL) -> tuple[int | None, list[int]]:
    """The version that answers without a number, and all that serve."""
    served = registry.models[model]
    return served.default_version.version.number if served.default_version else None, sorted(
        served.serving
    )


def override(registry: Registry, number: int, what: Override | None, model: str = MODEL) -> None:
    """Override a version as the management routes do."""
    with registry.exclusive() as change:
        if what == "load":
            prove_version(change, model, number)
        change.override(model, number, what)
        apply_store(change)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("alias:production", (2, [2])),
        ("alias:canary", (4, [4])),
        ("latest:2", (4, [3, 4])),
        ("latest:9", (2, [1, 2, 3, 4])),
        ("versions:1,3", (1, [1, 3])),
        ("versions:3,4", (4, [3, 4])),
        ("all", (2, [1, 2, 3, 4])),
    ],
)
def test_versions_of_the_policy_serve(
    store: ModelStore, make: Make, policy: str, expected: tuple[int, list[int]]
) -> None:
    """Each selected version is found by number, and production names the one without a number."""
    for _ in range(4):
        publish(store)
    store.promote(MODEL, 1)
    store.promote(MODEL, 2)
    store.promote(MODEL, 4, alias="canary")
    registry = make(policy)
    assert serving(registry) == expected
    for number in expected[1]:
        assert registry.find(MODEL, number).version.number == number
    for number in {1, 2, 3, 4, 5} - set(expected[1]):
        with pytest.raises(NotFoundError) as caught:
            registry.find(MODEL, number)
        assert caught.value.code == "version_not_found"


def test_version_that_fails_gives_its_place_to_the_next(store: ModelStore, make: Make) -> None:
    """With latest:2 the newest two that pass serve, and the failures have reasons."""
    for _ in range(3):
        publish(store)
    publish_deviating(store)
    alter(store, 2)
    registry = make("latest:2")
    assert serving(registry) == (3, [1, 3])
    assert sorted(registry.models[MODEL].errors) == [2, 4]
    assert registry.states(MODEL) == {1: "ready", 2: "error", 3: "ready", 4: "error"}


def test_missing_version_of_the_policy_is_an_error(store: ModelStore, make: Make) -> None:
    """A version that versions: names and the store lacks is an error of the model."""
    publish(store)
    registry = make("versions:1,4")
    assert serving(registry) == (1, [1])
    assert sorted(registry.models[MODEL].errors) == [4]


def test_newer_versions_replace_older_ones(store: ModelStore, make: Make) -> None:
    """With latest:2 a new version replaces the oldest and leaves the other loaded."""
    publish(store)
    publish(store)
    registry = make("latest:2")
    first, second = registry.find(MODEL, 1), registry.find(MODEL, 2)
    publish(store)
    reconcile(registry)
    assert serving(registry) == (3, [2, 3])
    assert registry.find(MODEL, 2) is second
    assert not first.take_lease()


def test_deleted_version_stops_serving(store: ModelStore, make: Make) -> None:
    """A deleted version stops serving, even if it answered without a number."""
    for _ in range(3):
        publish(store)
    registry = make("all")
    shutil.rmtree(store.root / MODEL / "3")
    reconcile(registry)
    assert serving(registry) == (2, [1, 2])


def test_promotion_of_a_serving_version_loads_nothing(store: ModelStore, make: Make) -> None:
    """Promoting a version that serves loads nothing."""
    for _ in range(3):
        publish(store)
    registry = make("all")
    before = dict(registry.models[MODEL].serving)
    store.promote(MODEL, 1)
    reconcile(registry)
    assert serving(registry) == (1, [1, 2, 3])
    assert registry.models[MODEL].serving == before


def test_versions_serve_as_soon_as_each_is_proven(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first version answers while the others are loading."""
    for _ in range(3):
        publish(store)
    registry = Registry(store, options, policy_of=lambda _: parse_policy("all"))
    observed: list[dict[int, str]] = []
    put = RegistryChange.put

    def observe(change: RegistryChange, model: ServedModel) -> None:
        put(change, model)
        observed.append(dict(registry.states(MODEL)))

    monkeypatch.setattr(RegistryChange, "put", observe)
    reconcile(registry)
    registry.close()
    assert {3: "loading"} in observed
    assert {3: "ready", 2: "loading"} in observed
    assert observed[-1] == {1: "ready", 2: "ready", 3: "ready"}


def test_version_that_drains_is_unloading(store: ModelStore, make: Make) -> None:
    """A replaced version with a lease is unloading, and then gone."""
    publish(store)
    registry = make("latest:1")
    with registry.lease(MODEL):
        publish(store)
        reconcile(registry)
        assert registry.states(MODEL) == {1: "unloading", 2: "ready"}
        thread = registry._state.draining._draining[0][2]
    thread.join()
    assert registry.states(MODEL) == {2: "ready"}


def test_loaded_version_serves_beside_the_policy(store: ModelStore, make: Make) -> None:
    """A version that an operator loads serves by its number until it is released."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    registry = make("alias:production")
    override(registry, 2, "load")
    publish(store)
    reconcile(registry)
    assert serving(registry) == (1, [1, 2])
    assert registry.overrides(MODEL) == {2: "load"}
    override(registry, 2, None)
    assert serving(registry) == (1, [1])


def test_load_retries_a_failed_version(store: ModelStore, make: Make) -> None:
    """An operator can retry a version that reconciliation does not retry."""
    publish(store)
    publish(store)
    alter(store, 2)
    registry = make("latest:1")
    assert serving(registry) == (1, [1])
    with pytest.raises(ConflictError) as caught:
        override(registry, 2, "load")
    assert caught.value.code == "version_failed"
    assert registry.overrides(MODEL) == {}
    assert registry.states(MODEL) == {1: "ready", 2: "error"}
    alter(store, 2)  # restores the file
    override(registry, 2, "load")
    assert serving(registry) == (2, [2])
    assert registry.models[MODEL].errors == {}


def test_unloaded_version_is_replaced_by_the_next_candidate(store: ModelStore, make: Make) -> None:
    """The next candidate serves until the unloaded version is released."""
    publish(store)
    publish(store)
    publish(store)
    publish(store, "other")
    alter(store, 2)
    registry = make("latest:1")
    Operations(registry).unload(MODEL, 3)
    reconcile(registry)
    assert serving(registry) == (1, [1])
    assert sorted(registry.models[MODEL].errors) == [2]
    override(registry, 3, None)
    assert serving(registry) == (3, [3])


def test_unload_without_a_successor_is_a_conflict(store: ModelStore, make: Make) -> None:
    """With a damaged alias an unload is rejected, and the earlier override stays."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    registry = make("alias:production")
    override(registry, 2, "load")
    (event,) = (store.root / MODEL / "aliases" / "production").glob("*.json")
    event.unlink()
    event.write_text("{")
    with pytest.raises(ConflictError, match="production") as caught:
        Operations(registry).unload(MODEL, 2)
    assert caught.value.code == "not_unloaded"
    assert (serving(registry), registry.overrides(MODEL)) == ((1, [1, 2]), {2: "load"})


def test_immovable_alias_is_rejected_before_loading(tmp_path: Path) -> None:
    """An alias that cannot be moved is rejected before a version is loaded."""
    builtin = make_store(tmp_path / "builtin")
    for _ in range(2):
        publish(builtin)
    alter(builtin, 1)
    registry = Registry(make_store(tmp_path / "store", builtin.root), options)
    reconcile(registry)
    management = Operations(registry)
    for move in (
        lambda: management.promote(MODEL, 1, "", ""),
        lambda: management.roll_back(MODEL, "", ""),
    ):
        with pytest.raises(ConflictError) as caught:
            move()
        assert caught.value.code == "alias_not_moved"
    for _ in range(2):
        publish(registry.store, "own")
    alter(registry.store, 1, "own")
    with pytest.raises(BadRequestError, match="'7'"):
        management.promote("own", 1, "", "", alias="7")
    assert [model.errors for model in registry.models.values()] == [{}, {}]
    registry.close()


def test_failed_load_leaves_the_model_unloaded(store: ModelStore, make: Make) -> None:
    """A load that fails leaves the model unloaded and the replica ready."""
    publish(store)
    publish_deviating(store)
    store.promote(MODEL, 1)
    publish(store, model="other")
    registry = make("alias:production", ["other"])
    override(registry, 1, "unload")
    with pytest.raises(ConflictError, match="version 2"):
        override(registry, 2, "load")
    reconcile(registry)
    assert registry.models[MODEL].state == "unloaded"
    assert (registry.ready, registry.states(MODEL)[2]) == (True, "error")


def test_unreadable_version_is_not_recorded_as_failed(
    store: ModelStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that cannot be read leaves no error, and the next load succeeds."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    registry = make("alias:production")

    def fail(*_: object, **_options: object) -> None:
        raise StoreUnreadableError("Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(store, "open", fail)
        with pytest.raises(NotReadyError, match="version 2 of colours"):
            override(registry, 2, "load")
    reconcile(registry)
    assert registry.states(MODEL) == {1: "ready"}
    override(registry, 2, "load")
    assert serving(registry) == (1, [1, 2])


def test_model_without_loaded_versions_is_unloaded(store: ModelStore, make: Make) -> None:
    """A model whose versions are all unloaded is not an error."""
    publish(store)
    publish(store, "other")
    registry = make("latest:1", ())
    override(registry, 1, "unload")
    assert (serving(registry), registry.models[MODEL].state) == ((None, []), "unloaded")
    with pytest.raises(NotReadyError, match="unloaded"):
        registry.find(MODEL)
    assert registry.ready
    (store.root / MODEL / "aliases").write_text("no directory")
    reconcile(registry)
    assert registry.models[MODEL].state == "error"
    (store.root / MODEL / "aliases").unlink()
    reconcile(registry)
    assert (registry.models[MODEL].state, registry.models[MODEL].error) == ("unloaded", None)


def test_last_version_that_readiness_needs_is_not_unloaded(store: ModelStore, make: Make) -> None:
    """The last version of a required model is unloaded only after another one is loaded."""
    publish(store)
    publish(store)
    registry = make("latest:1")
    with pytest.raises(ConflictError) as caught:
        override(registry, 2, "unload")
    assert caught.value.code == "last_version"
    override(registry, 1, "load")
    override(registry, 2, "unload")
    assert serving(registry) == (1, [1])
    assert registry.ready


@pytest.mark.parametrize("required", [None, [MODEL], [MODEL, "other"]])
def test_last_version_of_a_required_model_is_not_unloaded(
    store: ModelStore, make: Make, required: Sequence[str] | None
) -> None:
    """Required are the models that served at startup or that the setting names, not later ones."""
    publish(store)
    publish(store, "other")
    registry = make("latest:1", required)
    publish(store, "later")
    reconcile(registry)
    management = Operations(registry)
    with pytest.raises(ConflictError, match=r"version 1 .* colours") as caught:
        management.unload(MODEL, 1)
    assert caught.value.code == "last_version"
    assert management.unload("later", 1).state == "unloaded"
    assert (registry.ready, registry.overrides(MODEL), registry.models[MODEL].state) == (
        True,
        {},
        "ready",
    )


def test_last_version_stays_if_the_next_candidate_fails(store: ModelStore, make: Make) -> None:
    """An unload is rejected if the next candidate fails."""
    publish(store)
    publish(store)
    alter(store, 1)
    registry = make("latest:1")
    with pytest.raises(ConflictError) as caught:
        Operations(registry).unload(MODEL, 2)
    assert caught.value.code == "last_version"
    assert (serving(registry), registry.overrides(MODEL)) == ((2, [2]), {})


def test_undesired_proven_version_is_unloaded_by_reconciliation(
    store: ModelStore, make: Make
) -> None:
    """A version that was proven and not promoted is unloaded by the next reconciliation."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    registry = make("alias:production")
    with registry.exclusive() as change:
        prove_version(change, MODEL, 2)
        assert serving(registry) == (1, [1, 2])
    reconcile(registry)
    assert serving(registry) == (1, [1])


def test_unknown_model_cannot_be_proven(make: Make) -> None:
    """Proving a version of an unknown model leaves no trace."""
    registry = make("all")
    with registry.exclusive() as change, pytest.raises(ModelNotFoundError):
        prove_version(change, "absent", 1)
    assert registry.models == {}


def test_closed_registry_loads_nothing(store: ModelStore) -> None:
    """A closed registry rejects changes, and reconciliation loads nothing."""
    publish(store)
    registry = Registry(store, options)
    reconcile(registry)
    registry.close()
    publish(store)
    reconcile(registry)
    assert serving(registry) == (None, [])
    with pytest.raises(NotReadyError), registry.exclusive():
        pass
