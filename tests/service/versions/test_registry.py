"""Which version serves, why others do not, and when a version closes."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from asgi_application import started
from colour_model import (
    MODEL,
    SIZE,
    WEIGHTS,
    alter,
    labels,
    make_store,
    plain,
    publish,
    publish_deviating,
)
from registries import options, serving
from server_process import PATIENCE_SECONDS

from model_store.store import BUILTIN_DEFAULT_MODEL, ModelStore
from service.errors import NotFoundError, NotReadyError
from service.versions import reconciler as reconciler_module
from service.versions.reconciler import reconcile
from service.versions.registry import Registry

Load = Callable[..., Registry]


@pytest.fixture
def load(request: pytest.FixtureRequest) -> Load:
    """Reconcile a store's models and unload them at the end."""

    def load(store: ModelStore, default_model: str | None = None) -> Registry:
        registry = Registry(store, options, default_model)
        request.addfinalizer(registry.close)
        reconcile(registry)
        return registry

    return load


def test_latest_version_serves_without_an_alias(store: ModelStore, load: Load) -> None:
    """Without an alias the highest number serves, and 10 is higher than 9."""
    for _ in range(10):
        publish(store)
    registry = load(store)
    assert serving(registry) == 10
    assert registry.models[MODEL].state == "ready"


def test_production_serves_before_the_latest(store: ModelStore, load: Load) -> None:
    """A promoted version serves although a newer one exists."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    assert serving(load(store)) == 1


@pytest.mark.parametrize("spoil", ["altered", "deviating"])
def test_version_before_a_failed_one_serves(store: ModelStore, load: Load, spoil: str) -> None:
    """Without an alias, the version before a failed one serves, and the failure has a reason."""
    publish(store)
    number = publish(store) if spoil == "altered" else publish_deviating(store)
    if spoil == "altered":
        alter(store, number)
    registry = load(store)
    assert serving(registry) == 1
    assert registry.models[MODEL].errors[2]
    assert registry.ready


def test_version_promoted_before_a_failed_one_serves(store: ModelStore, load: Load) -> None:
    """If promoted versions fail, the last promoted one that passes serves."""
    for _ in range(3):
        publish(store)
    publish_deviating(store)
    for number in (1, 3, 4):
        store.promote(MODEL, number)
    alter(store, 3)
    registry = load(store)
    assert serving(registry) == 1
    assert sorted(registry.models[MODEL].errors) == [3, 4]


def test_version_that_was_rolled_back_does_not_serve_again(store: ModelStore, load: Load) -> None:
    """A version that was rolled back is no candidate."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    store.promote(MODEL, 2)
    store.rollback(MODEL)
    alter(store, 1)
    registry = load(store)
    assert serving(registry) is None
    assert not registry.ready


def test_deleted_promoted_version_is_an_error(store: ModelStore, load: Load) -> None:
    """A deleted promoted version is an error, and the one promoted before serves."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    store.promote(MODEL, 2)
    (store.root / MODEL / "2").rename(store.root / MODEL / ".gone")
    registry = load(store)
    assert serving(registry) == 1
    assert sorted(registry.models[MODEL].errors) == [2]


def wrong_classes(store: ModelStore) -> None:
    publish(store, "broken", weights=np.ones((3, 5), np.float32))


def aliases_are_a_file(store: ModelStore) -> None:
    publish(store, "broken")
    (store.root / "broken" / "aliases").write_text("")


def damaged_event(store: ModelStore) -> None:
    publish(store, "broken")
    store.promote("broken", 1)
    (store.root / "broken" / "aliases" / "production" / "00000001.json").write_text("{")


def not_a_model(store: ModelStore) -> None:
    publish(store, "broken", weights=np.full((3, 7), np.nan, np.float32))


@pytest.mark.parametrize(
    "publish_broken", [wrong_classes, aliases_are_a_file, damaged_event, not_a_model]
)
def test_broken_model_does_not_affect_others(
    store: ModelStore, load: Load, publish_broken: Callable[[ModelStore], None]
) -> None:
    """A broken model is in state error, and the others serve."""
    publish_broken(store)
    publish(store)
    registry = load(store)
    assert registry.loaded
    assert serving(registry) == 1
    broken = registry.models["broken"]
    assert broken.state == "error"
    assert not any(
        str(store.root) in reason for reason in (broken.error or "", *broken.errors.values())
    ), "clients read these"
    assert registry.ready


def test_unreadable_store_is_recorded(tmp_path: Path, load: Load) -> None:
    """An unreadable store leaves a registry that is not ready and has a reason."""
    registry = load(ModelStore(tmp_path / "nowhere", builtin_root=None))
    assert not registry.ready
    assert registry.error
    with pytest.raises(NotReadyError):
        registry.find(None)


def test_empty_store_is_not_ready(store: ModelStore, load: Load) -> None:
    """An empty store is loaded but not ready, and a named model does not exist."""
    registry = load(store)
    assert registry.loaded
    assert not registry.ready
    with pytest.raises(NotFoundError):
        registry.find("absent")


def test_failing_model_leaves_the_service_ready(store: ModelStore, load: Load) -> None:
    """Only a configured default model must serve."""
    publish(store)
    publish_deviating(store, "other")
    registry = load(store)
    assert registry.ready
    assert not load(store, "other").ready
    assert not load(store, "absent").ready
    assert registry.find(MODEL).version.number == 1
    with pytest.raises(NotReadyError, match="other"):
        registry.find("other")


@pytest.fixture
def layered(tmp_path: Path) -> ModelStore:
    """An empty store over a built-in model."""
    builtin = make_store(tmp_path / "builtin")
    publish(builtin, BUILTIN_DEFAULT_MODEL)
    return make_store(tmp_path / "store", builtin.root)


def test_published_model_hides_the_built_in_one(layered: ModelStore, load: Load) -> None:
    """A published model hides the built-in one of its name."""
    publish(layered, BUILTIN_DEFAULT_MODEL)
    publish(layered, BUILTIN_DEFAULT_MODEL)
    registry = load(layered, BUILTIN_DEFAULT_MODEL)
    assert serving(registry, BUILTIN_DEFAULT_MODEL) == 2
    assert registry.find(None).version.layer == "published"


@pytest.mark.parametrize("published", [[], ["one"], ["one", "two"]])
def test_default_model_answers_whatever_is_published(
    layered: ModelStore, load: Load, published: list[str]
) -> None:
    """The given default answers, and without one no model does."""
    for name in published:
        publish(layered, name)
    registry = load(layered, BUILTIN_DEFAULT_MODEL)
    assert registry.default_model == BUILTIN_DEFAULT_MODEL
    assert registry.find(None).version.model == BUILTIN_DEFAULT_MODEL
    with pytest.raises(NotFoundError) as caught:
        load(layered).find(None)
    assert caught.value.code == "no_default_model"


@pytest.mark.parametrize("healthy", [[], ["other"]], ids=["built-in", "other"])
def test_default_model_that_does_not_serve_is_not_replaced(
    layered: ModelStore, load: Load, healthy: list[str]
) -> None:
    """No other model answers for a default model that fails."""
    publish_deviating(layered, "mine")
    for name in healthy:
        publish(layered, name)
    with pytest.raises(NotReadyError):
        load(layered, "mine").find(None)


def test_nothing_is_found_before_the_models_are_loaded(store: ModelStore) -> None:
    """Before the models are loaded, every request is not ready."""
    publish(store)
    registry = Registry(store, options)
    for name in (None, MODEL):
        with pytest.raises(NotReadyError, match="loading"):
            registry.find(name)


def test_default_model_is_not_ready_while_it_loads(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the default model loads, it is not ready rather than unknown."""
    publish(store)
    registry = Registry(store, options, MODEL)
    errors: list[Exception] = []

    def find(*_: object) -> None:
        try:
            registry.find(None)
        except (NotReadyError, NotFoundError) as error:
            errors.append(error)

    monkeypatch.setattr(reconciler_module, "_apply_model", find)
    reconcile(registry)
    assert [type(error) for error in errors] == [NotReadyError]


def test_lease_keeps_a_version_open_through_close(store: ModelStore) -> None:
    """A leased version answers until the lease is returned, and only then closes."""
    publish(store)
    registry = Registry(store, options)
    reconcile(registry)
    closed = threading.Event()

    def close() -> None:
        registry.close()
        closed.set()

    async def answer() -> int:
        deadline = time.monotonic() + PATIENCE_SECONDS
        return (
            await served.batcher.submit(np.zeros((SIZE, SIZE, 3), np.uint8), deadline)
        ).batch_size

    with registry.lease(MODEL) as served:
        closing = threading.Thread(target=close)
        closing.start()
        while registry.models[MODEL].state != "unloading":
            time.sleep(0)
        assert asyncio.run(answer()) == 1
        assert not closed.is_set()
        with pytest.raises(NotReadyError):
            registry.find(MODEL)
    closing.join(PATIENCE_SECONDS)
    assert closed.is_set()
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(answer())


@pytest.mark.anyio
async def test_model_route_shows_versions_and_reasons(store: ModelStore) -> None:
    """The route shows the serving version, the aliases and a reason per failed version."""
    publish(store)
    publish_deviating(store)
    publish(store)
    alter(store, 3)
    for number in (1, 2, 3):
        store.promote(MODEL, number)
    async with started(store.root) as application:
        detail = (await application.client.get(f"/v1/models/{MODEL}")).json()
        listed = (await application.client.get("/v1/models")).json()
        ready = await application.client.get("/health/ready")
        prediction = (await application.client.post("/v1/predict", content=plain("blue"))).json()
    assert (detail["model"], detail["state"], detail["version"], detail["layer"]) == (
        MODEL,
        "ready",
        1,
        "published",
    )
    assert detail["aliases"] == {"production": 3}
    assert [version["state"] for version in detail["versions"]] == ["ready", "error", "error"]
    reasons = [version["reason"] for version in detail["versions"]]
    assert [reason is None for reason in reasons] == [True, False, False]
    assert str(store.root) not in str(detail)
    assert [(model["model"], model["version"], model["default"]) for model in listed["models"]] == [
        (MODEL, 1, True)
    ]
    assert ready.status_code == 200
    assert (prediction["version"], labels(prediction["results"])) == (1, ["blue"])


@pytest.mark.anyio
async def test_model_without_a_proven_version_answers_503(store: ModelStore) -> None:
    """A model without a proven version is 503 for predictions and readiness, not for liveness."""
    publish_deviating(store)
    async with started(store.root) as application:
        predict = await application.client.post(f"/v1/models/{MODEL}/predict", content=plain("red"))
        ready = await application.client.get("/health/ready")
        live = await application.client.get("/health/live")
        detail = (await application.client.get(f"/v1/models/{MODEL}")).json()
    assert (predict.status_code, predict.json()["code"]) == (503, "not_ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
    assert MODEL in ready.json()["reason"]
    assert live.status_code == 200
    assert (detail["state"], detail["version"], detail["versions"][0]["state"]) == (
        "error",
        None,
        "error",
    )


def test_weights_distinguish_the_colours() -> None:
    """The model of these tests prefers each colour's own class."""
    colours = np.array([[255, 0, 0], [0, 255, 255]], np.float32)
    assert (colours @ WEIGHTS).argmax(axis=1).tolist() == [0, 4]
