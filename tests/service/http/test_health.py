"""What /health/live and /health/ready answer when a part of the service has stopped."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgi_application import Application, started, until
from colour_model import MODEL, SIZE, WEIGHTS, make_store, plain, publish, publish_deviating
from exposition import find_sample
from operating import eventually
from server_process import running
from slow_model import slow_model_bytes
from stopping import end_thread

from model_store.store import ModelStore
from service.engine.loaded_version import LoadedVersion
from service.versions import watcher

pytestmark = pytest.mark.anyio
LIVE = (200, {"status": "live"})
READY = (200, {"status": "ready"})


async def health(application: Application) -> tuple[int, int, str]:
    """Status of /health/live and /health/ready, and the reason of the second."""
    live = await application.client.get("/health/live")
    ready = await application.client.get("/health/ready")
    return live.status_code, ready.status_code, ready.json().get("reason", "")


def stop_instance(loaded: LoadedVersion) -> None:
    (thread,) = loaded.batcher._threads
    (wakeup,) = loaded.batcher._sleeping
    end_thread(thread, wakeup)


def stop_watchdog(loaded: LoadedVersion) -> None:
    end_thread(loaded._watchdog._thread, loaded._watchdog._changed)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("stop", [stop_instance, stop_watchdog])
async def test_a_thread_that_has_ended_makes_the_process_neither_live_nor_ready(
    colour_store: ModelStore, stop: Callable[[LoadedVersion], None]
) -> None:
    """Every protocol and the metrics report it."""
    async with started(colour_store.root, torchserve_api=True) as application:
        assert await health(application) == (200, 200, "")
        loaded = application.served()
        await until(lambda: bool(loaded.batcher._sleeping))
        await asyncio.to_thread(stop, loaded)
        live, ready, reason = await health(application)
        assert (live, ready) == (503, 503)
        assert f"{MODEL}/1" in reason
        for path, status in (("/v2/health/live", 503), ("/v2/health/ready", 503), ("/ping", 500)):
            assert (await application.client.get(path)).status_code == status
        text = (await application.client.get("/metrics")).text
        assert find_sample(text, "resident_live", {}) == 0
        assert find_sample(text, "resident_ready", {}) == 0


async def test_a_service_that_no_longer_follows_its_store_is_not_live(
    colour_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    async with started(colour_store.root, store_poll_seconds=0.01) as application:
        assert (await health(application))[:2] == (200, 200)
        monkeypatch.setattr(watcher, "reconcile", fail)
        await until(lambda: application.registry.watcher_failed)
        assert (await health(application))[:2] == (503, 503)


async def test_a_service_that_stops_is_live_and_not_ready(colour_store: ModelStore) -> None:
    """Otherwise an orchestrator would kill it before it has finished its open requests."""
    async with started(colour_store.root) as application:
        application.app.stop()
        assert (await health(application))[:2] == (200, 503)


async def test_a_model_without_a_version_makes_the_replica_unready(tmp_path: Path) -> None:
    """A restart would not help, so it stays live."""
    store = make_store(tmp_path / "store")
    publish_deviating(store)
    async with started(store.root) as application:
        live, ready, reason = await health(application)
        assert (live, ready) == (200, 503)
        assert MODEL in reason
        publish(store)
        await application.reconcile()
        assert (await health(application))[:2] == (200, 200)


def test_a_vanished_store_is_reported_and_loaded_versions_serve(tmp_path: Path) -> None:
    """Loaded versions keep serving. A service that starts without a store serves nothing."""
    store = make_store(tmp_path / "store")
    publish(store)
    hidden = tmp_path / "hidden"
    flags = ("--store", store.root, "--no-builtin", "--store-poll-seconds", 0.05)
    with running(*flags) as server, server.announced().client() as client:

        def answers() -> list[Any]:
            both = [client.get(f"/health/{name}") for name in ("live", "ready")]
            return [(each.status_code, each.json()) for each in both]

        assert answers() == [LIVE, READY]
        store.root.rename(hidden)
        unreadable = (200, {"status": "ready", "reason": "the model store cannot be read"})
        eventually(answers, [LIVE, unreadable])
        assert client.post("/v1/predict", content=plain("red")).status_code == 200
        hidden.rename(store.root)
        eventually(answers, [LIVE, READY])
    store.root.rename(hidden)
    with running(*flags) as server, server.listening().client() as client:
        assert [status for status, _ in answers()] == [200, 503]
        hidden.rename(store.root)
        eventually(answers, [LIVE, READY])


async def test_a_run_that_the_watchdog_ends_leaves_the_service_ready(tmp_path: Path) -> None:
    """The instance is free again, and the run is counted."""

    store = make_store(tmp_path / "store")
    publish(store, file=slow_model_bytes(SIZE, SIZE, WEIGHTS))
    async with started(store.root, run_timeout_seconds=0.3) as application:
        hung = await application.client.post("/v1/predict", content=plain("white"))
        assert (hung.status_code, hung.json()["code"]) == (500, "inference_failed")
        assert await health(application) == (200, 200, "")
        answer = await application.client.post("/v1/predict", content=plain("red"))
        assert answer.status_code == 200
        text = (await application.client.get("/metrics")).text
    labels = {"model": MODEL, "version": "1"}
    assert find_sample(text, "resident_terminated_runs_total", labels) == 1
