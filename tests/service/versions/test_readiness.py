"""Which models must serve for a replica to be ready."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from asgi_application import started, until
from colour_model import MODEL, make_store, publish, publish_deviating
from registries import options
from server_process import PATIENCE_SECONDS, running

from model_store.session import SessionOptions
from model_store.store import BUILTIN_DEFAULT_MODEL, ModelStore
from service.engine.options import EngineOptions
from service.errors import ConflictError
from service.versions.readiness import RequiredModels
from service.versions.reconciler import reconcile
from service.versions.registry import Registry
from service.versions.served_model import serves

Make = Callable[..., Registry]


@pytest.fixture
def make(store: ModelStore, request: pytest.FixtureRequest) -> Make:
    """Create and reconcile a registry."""

    def make(required: Sequence[str] | None = None, default: str | None = None) -> Registry:
        options = EngineOptions(SessionOptions(), max_batch_size=8)
        registry = Registry(
            store, lambda _: options, default, required=RequiredModels(default, required)
        )
        request.addfinalizer(registry.close)
        reconcile(registry)
        return registry

    return make


@pytest.mark.parametrize(
    ("required", "default", "ready"),
    [
        (None, None, True),
        ((), None, True),
        (["one"], None, True),
        (["one", "two"], None, True),
        (["one", "broken"], None, False),
        (["one", "absent"], None, False),
        (None, "broken", False),
        (["one"], "absent", False),
    ],
)
def test_replica_is_ready_if_required_models_serve(
    store: ModelStore,
    make: Make,
    required: Sequence[str] | None,
    default: str | None,
    ready: object,
) -> None:
    """Models that settings name are required, otherwise those that serve after startup."""
    publish(store, "one")
    publish(store, "two")
    publish_deviating(store, "broken")
    assert make(required, default).ready is ready


@pytest.mark.parametrize(
    ("required", "published", "ready"),
    [
        (None, ["broken"], False),
        (None, ["broken", "damaged"], False),
        (None, ["broken", "good"], True),
        (None, [], True),
        ((), ["broken"], True),
        ([BUILTIN_DEFAULT_MODEL], ["broken"], True),
    ],
)
def test_one_published_model_must_serve(
    tmp_path: Path,
    required: Sequence[str] | None,
    published: Sequence[str],
    ready: object,
) -> None:
    """If no published model serves, the built-in one does not make the replica ready."""
    builtin = make_store(tmp_path / "builtin")
    publish(builtin, BUILTIN_DEFAULT_MODEL)
    store = make_store(tmp_path / "store", builtin.root)
    for name in published:
        (publish if name == "good" else publish_deviating)(store, name)
    registry = Registry(
        store,
        options,
        BUILTIN_DEFAULT_MODEL,
        required=RequiredModels(required=required),
    )
    reconcile(registry)
    assert registry.ready is ready
    if published == ["broken"] and required is None:
        publish(store, "late")
        reconcile(registry)
        assert not registry.ready, "a model that came later does not stand in for it"
        publish(store, "broken")
        reconcile(registry)
        assert registry.ready
        with registry.exclusive() as change, pytest.raises(ConflictError):
            change.override("broken", 2, "unload")
    registry.close()


def test_built_in_default_model_is_required(tmp_path: Path) -> None:
    """A replica whose built-in default model fails is not ready, unless a setting says so."""
    builtin = make_store(tmp_path / "builtin")
    publish_deviating(builtin, BUILTIN_DEFAULT_MODEL)
    store = make_store(tmp_path / "store", builtin.root)
    publish(store, "good")
    for required, ready in ((None, False), ((), True), (["good"], True)):
        registry = Registry(
            store,
            options,
            BUILTIN_DEFAULT_MODEL,
            required=RequiredModels(required=required),
        )
        reconcile(registry)
        assert registry.ready is ready
        registry.close()


@pytest.mark.parametrize("required", [None, ()])
def test_replica_without_models_is_not_ready(make: Make, required: Sequence[str] | None) -> None:
    """At least one model must serve."""
    assert not make(required).ready


def test_deleted_model_serves_on_only_if_a_setting_names_it(store: ModelStore, make: Make) -> None:
    """A deleted model is removed unless a setting names it."""
    publish(store, "one")
    publish(store, "two")
    named, unnamed = make(["one"]), make()
    shutil.rmtree(store.root / "one")
    for registry, served in ((named, ["one", "two"]), (unnamed, ["two"])):
        reconcile(registry)
        assert (registry.ready, sorted(registry.models)) == (True, served)
    assert named.models["one"].state == "unloading"


def test_missing_models_are_logged_once(
    store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing model is an error if readiness depends on it, otherwise a warning."""
    publish(store, "one")
    publish(store, "two")
    required = RequiredModels("absent", ["one", "missing"], ["two", "twoo"])
    registry = Registry(
        store,
        lambda _: EngineOptions(SessionOptions(), max_batch_size=8),
        "absent",
        required=required,
    )
    for _ in range(2):
        reconcile(registry)
    registry.close()
    logged = [
        (record.levelno, record.message.partition(" setting=")[2])
        for record in caplog.records
        if record.levelno > logging.INFO
    ]
    assert logged == [
        (logging.ERROR, "SERVICE_DEFAULT_MODEL model=absent available=one,two"),
        (logging.ERROR, "SERVICE_REQUIRED_MODELS model=missing available=one,two"),
        (logging.WARNING, "SERVICE_MODELS model=twoo available=one,two"),
    ]


@pytest.mark.anyio
async def test_missing_models_are_shown_until_published(store: ModelStore) -> None:
    """Readiness shows a missing model until it is published."""
    publish(store)
    async with started(
        store.root, models={"late": {"instances": 1}}, required_models=MODEL, store_poll_seconds=0
    ) as application:
        ready = await application.client.get("/health/ready")
        assert ready.status_code == 200
        assert ready.json()["status"] == "ready"
        assert "SERVICE_MODELS names late" in ready.json()["reason"]
        publish(store, "late")
        reconcile(application.registry)
        await asyncio.wait_for(
            until(lambda: serves(application.registry.models, "late")), PATIENCE_SECONDS
        )
        assert (await application.client.get("/health/ready")).json() == {"status": "ready"}


def test_missing_required_model_is_reported_at_startup(store: ModelStore) -> None:
    """A missing required model is on the terminal, in the log and in readiness."""
    publish(store)
    arguments = (
        "--store",
        store.root,
        "--no-builtin",
        "--required-models",
        f"{MODEL}, flowers",
    )
    with running(*arguments) as server, server.announced().client() as client:
        response = client.get("/health/ready")
        assert (response.status_code, response.json()["status"]) == (503, "not ready")
        assert "SERVICE_REQUIRED_MODELS names flowers" in response.json()["reason"]
        assert client.post("/v1/models/flowers/predict").status_code == 404
        assert "NOT SERVED  flowers: SERVICE_REQUIRED_MODELS" in server.stdout.text
        assert server.stderr.wait_for(
            f"setting=SERVICE_REQUIRED_MODELS model=flowers available={MODEL}"
        )
