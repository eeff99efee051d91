"""Several versions of a model at once: what serves, which one answers, and what an operator holds loaded or unloaded."""

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
from service.versions.registry import Registry, RegistryChange
from service.versions.served_model import ServedModel
from service.versions.version_policy import parse_policy

Make = Callable[..., Registry]


@pytest.fixture
def make(store: ModelStore, request: pytest.FixtureRequest) -> Make:
    """A registry over the store by a policy, loaded; `required` as the setting has it."""

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
    """What answers, and everything that serves."""
    found = registry.models[model]
    return found.answering.version.number if found.answering else None, sorted(found.serving)


def hold(registry: Registry, number: int, what: Override | None, model: str = MODEL) -> None:
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
    """Each is found by its number; without one, what production has named answers, else the highest."""
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
    """The newest two that can be proven serve, and each that can not has its own reason."""
    for _ in range(3):
        publish(store)
    publish_deviating(store)
    alter(store, 2)
    registry = make("latest:2")
    assert serving(registry) == (3, [1, 3])
    assert sorted(registry.models[MODEL].errors) == [2, 4]
    assert registry.states(MODEL) == {1: "ready", 2: "error", 3: "ready", 4: "error"}


def test_version_that_is_asked_for_and_missing_is_an_error(store: ModelStore, make: Make) -> None:
    """What versions: names and the store lacks is shown, and the others serve."""
    publish(store)
    registry = make("versions:1,4")
    assert serving(registry) == (1, [1])
    assert sorted(registry.models[MODEL].errors) == [4]


def test_newer_versions_push_out_older_ones(store: ModelStore, make: Make) -> None:
    """The window moves with what is published; what stays in it is not loaded again, what leaves it is closed."""
    publish(store)
    publish(store)
    registry = make("latest:2")
    first, second = registry.find(MODEL, 1), registry.find(MODEL, 2)
    publish(store)
    reconcile(registry)
    assert serving(registry) == (3, [2, 3])
    assert registry.find(MODEL, 2) is second
    assert not first.take_lease()


def test_version_that_is_deleted_leaves_the_others(store: ModelStore, make: Make) -> None:
    """With all, a version that goes from the store stops serving, also the one that answered."""
    for _ in range(3):
        publish(store)
    registry = make("all")
    shutil.rmtree(store.root / MODEL / "3")
    reconcile(registry)
    assert serving(registry) == (2, [1, 2])


def test_alias_moves_what_answers_and_loads_nothing(store: ModelStore, make: Make) -> None:
    """Where the version serves already, a promotion is only another answer to which one is meant."""
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
    """The best one answers while the others are still being loaded, and each one's state says where it is."""
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
    """What was swapped out and still has a lease is in state unloading, and then gone."""
    publish(store)
    registry = make("latest:1")
    with registry.lease(MODEL):
        publish(store)
        reconcile(registry)
        assert registry.states(MODEL) == {1: "unloading", 2: "ready"}
        thread = registry._state.draining._draining[0][2]
    thread.join()
    assert registry.states(MODEL) == {2: "ready"}


def test_loaded_by_hand_serves_beside_the_policy_and_outlasts_looks(
    store: ModelStore, make: Make
) -> None:
    """Another version is there for those who name it, until it is left to the policy again; it does not answer in its place."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    registry = make("alias:production")
    hold(registry, 2, "load")
    publish(store)
    reconcile(registry)
    assert serving(registry) == (1, [1, 2])
    assert registry.overrides(MODEL) == {2: "load"}
    hold(registry, 2, None)
    assert serving(registry) == (1, [1])


def test_loaded_by_hand_is_tried_again_where_it_failed(store: ModelStore, make: Make) -> None:
    """What the looks do not try again an operator can: a file that was put right serves, one that was not has its reason."""
    publish(store)
    publish(store)
    alter(store, 2)
    registry = make("latest:1")
    assert serving(registry) == (1, [1])
    with pytest.raises(ConflictError) as caught:
        hold(registry, 2, "load")
    assert caught.value.code == "version_failed"
    assert registry.overrides(MODEL) == {}
    assert registry.states(MODEL) == {1: "ready", 2: "error"}
    alter(store, 2)  # the same bit back
    hold(registry, 2, "load")
    assert serving(registry) == (2, [2])
    assert registry.models[MODEL].errors == {}


def test_unloaded_by_hand_stays_out_and_the_next_one_takes_over(
    store: ModelStore, make: Make
) -> None:
    """The best other one that can be proven serves, through any number of looks, until the hold is taken back."""
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
    hold(registry, 3, None)
    assert serving(registry) == (3, [3])


def test_unload_that_can_not_be_followed_is_a_conflict(store: ModelStore, make: Make) -> None:
    """Where an event of the aliases is damaged, nobody knows what should serve instead: the version serves on, and is not held."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    registry = make("alias:production")
    hold(registry, 2, "load")
    (event,) = (store.root / MODEL / "aliases" / "production").glob("*.json")
    event.unlink()
    event.write_text("{")
    with pytest.raises(ConflictError, match="production") as caught:
        Operations(registry).unload(MODEL, 2)
    assert caught.value.code == "not_unloaded"
    assert (serving(registry), registry.overrides(MODEL)) == ((1, [1, 2]), {2: "load"})


def test_alias_that_can_not_move_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    """A version of a built-in model, or a name that no alias can have: neither is proven in vain, nor its failure told instead."""
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


def test_model_that_was_unloaded_stays_so_where_a_load_fails(store: ModelStore, make: Make) -> None:
    """An operator's failed try is no fault of the replica, which stays ready by the other model."""
    publish(store)
    publish_deviating(store)
    store.promote(MODEL, 1)
    publish(store, model="other")
    registry = make("alias:production", ["other"])
    hold(registry, 1, "unload")
    with pytest.raises(ConflictError, match="version 2"):
        hold(registry, 2, "load")
    reconcile(registry)
    assert registry.models[MODEL].state == "unloaded"
    assert (registry.ready, registry.states(MODEL)[2]) == (True, "error")


def test_what_could_not_be_read_is_no_failure_of_the_version(
    store: ModelStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails for a moment while a version is proven leaves no mark on it, and the next try succeeds."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    registry = make("alias:production")

    def fail(*_: object) -> None:
        raise StoreUnreadableError("Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(store, "open", fail)
        with pytest.raises(NotReadyError, match="version 2 of colours"):
            hold(registry, 2, "load")
    reconcile(registry)
    assert registry.states(MODEL) == {1: "ready"}
    hold(registry, 2, "load")
    assert serving(registry) == (1, [1, 2])


def test_model_without_a_version_is_unloaded_and_no_fault(store: ModelStore, make: Make) -> None:
    """Where every version was unloaded, the model is there and says so, and the replica stays ready by the other one."""
    publish(store)
    publish(store, "other")
    registry = make("latest:1", ())
    hold(registry, 1, "unload")
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
    """An operator's slip does not take a replica down; with another version loaded first it goes."""
    publish(store)
    publish(store)
    registry = make("latest:1")
    with pytest.raises(ConflictError) as caught:
        hold(registry, 2, "unload")
    assert caught.value.code == "last_version"
    hold(registry, 1, "load")
    hold(registry, 2, "unload")
    assert serving(registry) == (1, [1])
    assert registry.ready


@pytest.mark.parametrize("required", [None, [MODEL], [MODEL, "other"]])
def test_last_version_of_a_required_model_is_not_unloaded(
    store: ModelStore, make: Make, required: Sequence[str] | None
) -> None:
    """Not only the default model's: each that served at the start, or that the setting names. One that came later may go."""
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


def test_last_version_stays_where_no_other_can_be_proven(store: ModelStore, make: Make) -> None:
    """The policy's next version is tried first, and its reason is kept."""
    publish(store)
    publish(store)
    alter(store, 1)
    registry = make("latest:1")
    with pytest.raises(ConflictError) as caught:
        Operations(registry).unload(MODEL, 2)
    assert caught.value.code == "last_version"
    assert (serving(registry), registry.overrides(MODEL)) == ((2, [2]), {})


def test_proven_version_that_nobody_wishes_goes_with_the_next_look(
    store: ModelStore, make: Make
) -> None:
    """A move that was proven and then not written leaves nothing behind."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    registry = make("alias:production")
    with registry.exclusive() as change:
        prove_version(change, MODEL, 2)
        assert serving(registry) == (1, [1, 2])
    reconcile(registry)
    assert serving(registry) == (1, [1])


def test_model_that_is_not_there_can_not_be_proven(make: Make) -> None:
    """A name that nobody published leaves no trace among the models."""
    registry = make("all")
    with registry.exclusive() as change, pytest.raises(ModelNotFoundError):
        prove_version(change, "absent", 1)
    assert registry.models == {}


def test_nothing_is_loaded_once_the_registry_is_closed(store: ModelStore) -> None:
    """A look or a change that comes too late leaves no version open behind the service's end."""
    publish(store)
    registry = Registry(store, options)
    reconcile(registry)
    registry.close()
    publish(store)
    reconcile(registry)
    assert serving(registry) == (None, [])
    with pytest.raises(NotReadyError), registry.exclusive():
        pass
