"""Versions that go live while a real server has open requests."""

import asyncio
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from asgi_application import started, until
from colour_model import MODEL, labels, plain, publish, publish_deviating
from operating import eventually, publish_other
from server_process import PATIENCE_SECONDS, ServerProcess, running

from model_store.store import BUILTIN_DEFAULT_MODEL, ModelStore
from model_store.version import Version
from service.engine.loaded_version import LoadedVersion
from service.versions import loading, watcher
from service.versions.registry import Registry
from service.versions.watcher import watch

RED = plain("red")
LABELS = {1: "red", 2: "white"}


@contextmanager
def watching(store: ModelStore, *arguments: object) -> Iterator[ServerProcess]:
    with running(
        "--store", store.root, "--no-builtin", "--store-poll-seconds", 0.05, *arguments
    ) as server:
        yield server


@dataclass
class ConcurrentClients:
    """Clients that send requests without a pause, and their answers."""

    answers: list[list[tuple[int, int, str]]] = field(default_factory=list)

    @contextmanager
    def sending(self, server: ServerProcess, count: int = 3) -> Iterator[None]:
        stop = threading.Event()
        self.answers = [[] for _ in range(count)]

        def send(answers: list[tuple[int, int, str]]) -> None:
            with server.client() as client:
                while not stop.is_set():
                    response = client.post("/v1/predict", content=RED)
                    answer = response.json()
                    label = (
                        str(labels(answer["results"])[0]) if response.is_success else response.text
                    )
                    answers.append((response.status_code, answer.get("version", 0), label))

        threads = [threading.Thread(target=send, args=(answers,)) for answers in self.answers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE_SECONDS)

    def wait_for(self, version: int) -> None:
        """Wait until every client was last answered by this version."""
        eventually(
            lambda: {answers[-1][1] if answers else 0 for answers in self.answers}, {version}
        )

    @property
    def failures(self) -> list[tuple[int, int, str]]:
        return [
            answer
            for answers in self.answers
            for answer in answers
            if answer[0] != 200 or answer[2] != LABELS[answer[1]]
        ]

    @property
    def sequences(self) -> list[list[int]]:
        """The versions that answered each client, without repeats."""
        return [
            [version for version, _ in itertools.groupby(answer[1] for answer in answers)]
            for answers in self.answers
        ]


def test_promotion_and_rollback_lose_no_request(store: ModelStore) -> None:
    """During a promotion and a rollback no request fails, and no client sees versions alternate."""
    publish(store)
    store.promote(MODEL, 1)
    clients = ConcurrentClients()
    with watching(store) as server, server.announced().client() as client, clients.sending(server):
        digests = [client.get("/v1/models").json()["models"][0]["digest"]]
        clients.wait_for(1)
        store.promote(MODEL, publish_other(store))
        clients.wait_for(2)
        (listed,) = client.get("/v1/models").json()["models"]
        detail = client.get(f"/v1/models/{MODEL}").json()
        assert (listed["version"], listed["state"], detail["version"]) == (2, "ready", 2)
        assert [version["state"] for version in detail["versions"]] == ["available", "ready"]
        assert detail["aliases"] == {"production": 2}
        answer = client.post("/v1/predict", content=RED)
        assert answer.headers["model-digest"] == listed["digest"] == detail["digest"]
        digests.append(listed["digest"])
        assert (
            client.post(f"/v1/models/{MODEL}/versions/1/predict", content=RED).json()["code"]
            == "version_not_found"
        )
        store.rollback(MODEL)
        clients.wait_for(1)
        digests.append(client.get(f"/v1/models/{MODEL}").json()["digest"])
    assert clients.failures == []
    assert clients.sequences == [[1, 2, 1]] * 3
    assert digests[0] == digests[2] != digests[1]
    assert "Traceback" not in server.stderr.text


def test_version_that_fails_its_proof_never_answers(store: ModelStore) -> None:
    """A failed version never answers, and the next good one does."""
    publish(store)
    clients = ConcurrentClients()
    with watching(store) as server, server.announced().client() as client, clients.sending(server):
        clients.wait_for(1)
        publish_deviating(store)
        eventually(
            lambda: client.get(f"/v1/models/{MODEL}").json()["versions"][-1]["state"], "error"
        )
        detail = client.get(f"/v1/models/{MODEL}").json()
        assert (detail["version"], detail["state"]) == (1, "ready")
        assert detail["versions"][1]["reason"]
        assert (client.get("/health/ready").status_code, client.get("/health/ready").json()) == (
            200,
            {"status": "ready"},
        )
        publish(store)
        clients.wait_for(3)
    assert all(
        answer[0] == 200 and answer[2] == "red" for answers in clients.answers for answer in answers
    )
    assert clients.sequences == [[1, 3]] * 3
    assert server.stderr.text.count(f"version failed model={MODEL} version=2 ") == 1


def test_several_versions_answer_by_number(store: ModelStore) -> None:
    """With latest:2, two versions serve side by side while a third replaces the oldest."""
    publish(store)
    publish_other(store)
    clients = ConcurrentClients()
    with (
        watching(store, "--version-policy", "latest:2") as server,
        server.announced().client() as client,
        clients.sending(server),
    ):
        assert re.search(
            rf"{MODEL}/2 \(default\): 7 classes.* versions 1$", server.stdout.text, re.MULTILINE
        )

        def answering_versions() -> list[int]:
            paths = [f"/v1/models/{MODEL}/versions/{number}/predict" for number in (1, 2, 3)]
            answers = [client.post(path, content=RED).json() for path in paths]
            return [answer.get("version", answer.get("status")) for answer in answers]

        assert answering_versions() == [1, 2, 404]
        clients.wait_for(2)
        store.promote(MODEL, 1)  # production names the version that answers without a number
        clients.wait_for(1)
        publish(store)
        eventually(answering_versions, [404, 2, 3])
    assert {answer[0] for answers in clients.answers for answer in answers} == {200}


def test_models_come_and_go(store: ModelStore) -> None:
    """A new model serves, and a deleted one is not found."""
    publish(store)
    with watching(store) as server, server.announced().client() as client:
        publish_other(store, "new")
        eventually(lambda: client.post("/v1/models/new/predict", content=RED).status_code, 200)
        assert labels(client.post("/v1/models/new/predict", content=RED).json()["results"]) == [
            "white"
        ]
        assert [model["model"] for model in client.get("/v1/models").json()["models"]] == [
            MODEL,
            "new",
        ]
        (store.root / "new").rename(store.root / ".gone")
        eventually(lambda: client.post("/v1/models/new/predict", content=RED).status_code, 404)
        assert [model["model"] for model in client.get("/v1/models").json()["models"]] == [MODEL]
        assert client.get("/v1/models/new").status_code == 404
        (store.root / MODEL).rename(store.root / ".gone-too")
        eventually(lambda: client.get(f"/v1/models/{MODEL}").json()["state"], "unloading")
        detail = client.get(f"/v1/models/{MODEL}").json()
        assert detail["reason"]
        assert detail["versions"] == [
            {"version": 1, "state": "ready", "reason": None, "held": None}
        ]
        assert client.get("/health/ready").status_code == 200
        assert client.post("/v1/predict", content=RED).status_code == 200
    assert "Traceback" not in server.stderr.text


def test_published_model_replaces_the_built_in_one(store: ModelStore) -> None:
    """The built-in version answers until a published one is proven."""
    arguments = ("--store", store.root, "--store-poll-seconds", 0.05)
    path = f"/v1/models/{BUILTIN_DEFAULT_MODEL}"
    with running(*arguments) as server, server.announced().client() as client:
        assert client.get(path).json()["layer"] == "built-in"
        publish_deviating(store, BUILTIN_DEFAULT_MODEL)
        eventually(lambda: client.get(path).json()["versions"][0]["state"], "error")
        detail = client.get(path).json()
        assert (detail["layer"], detail["version"], detail["state"]) == ("built-in", 1, "ready")
        assert detail["versions"][0]["reason"]
        publish(store, BUILTIN_DEFAULT_MODEL)
        eventually(lambda: client.get(path).json()["layer"], "published")
        answer = client.post("/v1/predict", content=RED).json()
        assert (answer["version"], labels(answer["results"])) == (2, ["red"])


def test_unreadable_store_is_shown_by_readiness(store: ModelStore) -> None:
    """With an unreadable store everything serves on, and readiness shows a reason."""
    publish(store)
    hidden = store.root.with_name("hidden")
    clients = ConcurrentClients()
    with watching(store) as server, server.announced().client() as client, clients.sending(server):
        store.root.rename(hidden)
        eventually(lambda: client.get("/health/ready").json().keys(), {"status", "reason"})
        assert client.get("/health/ready").status_code == 200
        assert [model["version"] for model in client.get("/v1/models").json()["models"]] == [1]
        hidden.rename(store.root)
        eventually(lambda: client.get("/health/ready").json(), {"status": "ready"})
        publish_other(store)
        clients.wait_for(2)
    assert clients.failures == []
    assert server.stderr.text.count("model store unreadable") == 1


def test_late_store_is_served(tmp_path: Path) -> None:
    """A store that appears after startup is served without a restart."""
    late = ModelStore(tmp_path / "late", builtin_root=None)
    with watching(late) as server, server.announced().client() as client:
        assert client.get("/health/ready").status_code == 503
        late.root.mkdir()
        eventually(lambda: client.get("/v1/models").json().get("models"), [])
        publish(late)
        eventually(lambda: client.get("/health/ready").status_code, 200)
        assert labels(client.post("/v1/predict", content=RED).json()["results"]) == ["red"]


def test_store_is_watched_by_default(store: ModelStore) -> None:
    """With default settings the service follows its store."""
    publish(store)
    with (
        running("--store", store.root, "--no-builtin") as server,
        server.announced().client() as client,
    ):
        publish_other(store)
        eventually(lambda: client.post("/v1/predict", content=RED).json()["version"], 2)


async def wait_until(condition: Callable[[], bool]) -> None:
    await asyncio.wait_for(until(condition), PATIENCE_SECONDS)


@pytest.mark.anyio
async def test_open_request_ends_on_its_version(
    store: ModelStore,
) -> None:
    """An open request ends on its version while the next one answers new requests."""
    publish(store)
    store.promote(MODEL, 1)
    async with started(store.root, store_poll_seconds=0.01) as application:
        first = application.served()
        model = application.hold_model()
        under_way = asyncio.create_task(application.client.post("/v1/predict", content=RED))
        await model.begun()
        store.promote(MODEL, publish_other(store))
        await wait_until(lambda: application.served() is not first)
        answer = (await application.client.post("/v1/predict", content=RED)).json()
        assert (answer["version"], labels(answer["results"])) == (2, ["white"])
        assert not under_way.done()
        store.promote(MODEL, publish(store))
        assert store.prune(MODEL, 1).kept[1] == "a process has it open"
        model.gate.set()
        answer = (await under_way).json()
        assert (answer["version"], labels(answer["results"])) == (1, ["red"])
        await wait_until(lambda: 1 in store.prune(MODEL, 1).deleted)


@pytest.mark.anyio
async def test_loading_does_not_block_requests(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a version loads, the one before it and the health routes answer."""
    gate, load_began = threading.Event(), threading.Event()

    class Slow(LoadedVersion):
        def __init__(self, version: Version, *arguments: Any, **named: Any) -> None:
            if version.number == 2:
                load_began.set()
                assert gate.wait(PATIENCE_SECONDS)
            super().__init__(version, *arguments, **named)

    publish(store)
    monkeypatch.setattr(loading, "LoadedVersion", Slow)
    async with started(store.root, store_poll_seconds=0.01) as application:
        publish_other(store)
        assert await asyncio.to_thread(load_began.wait, PATIENCE_SECONDS)
        responses: list[httpx.Response] = [
            await application.client.post("/v1/predict", content=RED),
            await application.client.get("/health/ready"),
            await application.client.get(f"/v1/models/{MODEL}"),
        ]
        assert [response.status_code for response in responses] == [200, 200, 200]
        assert (responses[0].json()["version"], responses[2].json()["state"]) == (1, "ready")
        gate.set()
        await wait_until(lambda: application.served().version.number == 2)


@pytest.fixture
def reconciled(monkeypatch: pytest.MonkeyPatch) -> list[Registry]:
    """The registry of every reconciliation; none does anything."""
    reconciled: list[Registry] = []
    monkeypatch.setattr(watcher, "reconcile", reconciled.append)
    return reconciled


REGISTRY: Any = SimpleNamespace(trials=None)


@pytest.mark.anyio
async def test_zero_seconds_reconcile_once(reconciled: list[Registry]) -> None:
    """With an interval of 0, the watcher ends after it has announced the first reconciliation."""
    announced: list[Registry] = []
    await asyncio.wait_for(watch(REGISTRY, 0, asyncio.Event(), announced.append), PATIENCE_SECONDS)
    assert reconciled == announced == [REGISTRY]


@pytest.mark.anyio
async def test_watcher_reconciles_until_it_is_stopped(reconciled: list[Registry]) -> None:
    """The watcher announces the first reconciliation alone and ends immediately."""
    announced: list[Registry] = []
    stopping = asyncio.Event()
    watching = asyncio.create_task(watch(REGISTRY, 0.001, stopping, announced.append))
    await wait_until(lambda: len(reconciled) >= 5)
    stopping.set()
    await asyncio.wait_for(watching, PATIENCE_SECONDS)
    assert announced == [REGISTRY]
    stopping = asyncio.Event()
    watching = asyncio.create_task(watch(REGISTRY, 3600, stopping, announced.append))
    await wait_until(lambda: len(announced) == 2)
    stopping.set()
    await asyncio.wait_for(watching, PATIENCE_SECONDS)


@pytest.mark.anyio
async def test_announcement_that_fails_does_not_end_the_watcher(
    reconciled: list[Registry],
) -> None:
    """The watcher goes on if the terminal is gone."""
    stopping = asyncio.Event()

    def announce(_: Registry) -> None:
        raise BrokenPipeError

    watching = asyncio.create_task(watch(REGISTRY, 0.001, stopping, announce))
    await wait_until(lambda: len(reconciled) >= 3)
    stopping.set()
    await asyncio.wait_for(watching, PATIENCE_SECONDS)
