"""The management routes, over real HTTP and in a real process."""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgi_application import RawClient, started, until
from colour_model import MODEL, alter, labels, plain, publish, publish_deviating
from http_problems import check_problem
from operating import (
    BASE,
    Operator,
    eventually,
    operating,
    publish_other,
    settled,
    states,
)
from server_process import PATIENCE_SECONDS, running
from unprivileged import unprivileged

from model_store.manifest import MANIFEST_NAME
from model_store.store import BUILTIN_DEFAULT_MODEL, ModelStore
from service.key_changes import add_key
from service.versions import operations
from service.versions.loading import prove_version
from service.versions.registry_change import RegistryChange

RED = plain("red")
HANGS_SECONDS = 10.0
"""A directory in which not even root can make a file."""


def test_load_and_unload_last_until_released(store: ModelStore) -> None:
    """A loaded or unloaded version stays so through reconciliations until it is released."""
    publish(store)
    store.promote(MODEL, 1)
    publish_other(store)
    with operating(store) as operator:
        check_problem(
            operator.client.post(f"{BASE}/versions/2/predict", content=RED),
            404,
            "version_not_found",
        )
        detail = operator.done("versions/2/load")
        assert states(detail) == {1: "ready", 2: "ready"}
        assert [version["held"] for version in detail["versions"]] == [None, "load"]
        answer = operator.client.post(f"{BASE}/versions/2/predict", content=RED).json()
        assert (answer["version"], labels(answer["results"]), operator.version()) == (
            2,
            ["white"],
            1,
        )
        publish(store)  # the next reconciliation has something to do
        store.promote(MODEL, 3)
        eventually(operator.version, 3)
        assert states(operator.client.get(BASE).json())[2] == "ready"
        operator.done("versions/3/unload")
        assert operator.version() == 1
        detail = operator.client.delete(f"{BASE}/versions/3/hold").json()
        assert (detail["version"], detail["versions"][2]["held"]) == (3, None)
        operator.done("versions/2/unload")
        check_problem(
            operator.client.post(f"{BASE}/versions/2/predict", content=RED),
            404,
            "version_not_found",
        )
    assert store.aliases(MODEL).version("production") == 3


def test_deleted_version_can_be_released_once(store: ModelStore) -> None:
    """A deleted version can be released, and is not found afterwards."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    with operating(store) as operator:
        operator.done("versions/2/unload")
        shutil.rmtree(store.root / MODEL / "2")
        detail = operator.client.delete(f"{BASE}/versions/2/hold").json()
        assert states(detail) == {1: "ready"}
        check_problem(operator.client.delete(f"{BASE}/versions/2/hold"), 404, "version_not_found")


def test_last_version_is_not_unloaded(store: ModelStore) -> None:
    """The last version that readiness depends on is not unloaded."""
    publish(store)
    with operating(store) as operator:
        check_problem(operator.post("versions/1/unload"), 409, "last_version")
        assert (operator.version(), operator.client.get("/health/ready").json()) == (
            1,
            {"status": "ready"},
        )


def test_promotion_and_rollback_are_events_in_the_store(store: ModelStore) -> None:
    """Promotions and rollbacks record key and reason, and a second replica follows them."""
    publish(store)
    publish_other(store)
    store.promote(MODEL, 1)
    with (
        operating(store) as operator,
        running("--store", store.root, "--no-builtin", "--store-poll-seconds", 0.05) as second,
    ):
        assert operator.done("versions/2/promote", why="better")["version"] == 2
        assert operator.version() == 2
        with second.announced().client() as other:
            eventually(lambda: other.post("/v1/predict", content=RED).json()["version"], 2)
            assert operator.done("rollback")["version"] == 1
            eventually(lambda: other.post("/v1/predict", content=RED).json()["version"], 1)
        response = operator.client.put(
            f"{BASE}/aliases/canary", json={"version": 2, "why": "a try"}
        )
        assert response.json()["aliases"] == {"production": 1, "canary": 2}
        assert states(settled(response.json())) == {1: "ready", 2: "available"}
    events = [*store.aliases(MODEL).history("production"), *store.aliases(MODEL).history("canary")]
    assert [(event.action, event.version, event.why) for event in events[1:]] == [
        ("promote", 2, "better"),
        ("rollback", 1, ""),
        ("promote", 2, "a try"),
    ]
    assert {event.by for event in events[1:]} == {"key deploy"}


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["rollback", "versions/2/unload"])
async def test_client_that_disconnects_while_waiting_changes_nothing(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A client that disconnects before its turn changes nothing, so that it can retry."""
    for number in (1, 2):
        publish(store)
        store.promote(MODEL, number)
    keys, began, gate = store.root.parent / "keys.json", threading.Event(), threading.Event()
    header = {"authorization": f"Bearer {add_key(keys, 'deploy', ['manage'])}"}
    async with started(store.root, keys=keys) as application:

        def wait(change: RegistryChange, name: str, number: int) -> None:
            began.set()
            assert gate.wait(PATIENCE_SECONDS)
            prove_version(change, name, number)

        monkeypatch.setattr(operations, "prove_version", wait)
        first, leaver = (RawClient(f"{BASE}/{end}", header) for end in ("versions/1/load", path))
        requests = []
        for client in (first, leaver):
            client.send_body(b"")
            requests.append(asyncio.create_task(client.request(application.app)))
            await until(client.messages.empty)
            assert await asyncio.to_thread(began.wait, PATIENCE_SECONDS)
        leaver.leave()
        gate.set()
        await asyncio.gather(*requests)
        assert first.status == 200
        assert application.registry.overrides(MODEL) == {1: "load"}
    assert store.aliases(MODEL).version("production") == 2


@pytest.mark.anyio
async def test_changes_wait_in_order_and_take_no_threads(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting changes run in order and occupy no threads."""
    for _ in range(2):
        publish(store)
    store.promote(MODEL, 1)
    keys, gate = store.root.parent / "keys.json", threading.Event()
    header = {"authorization": f"Bearer {add_key(keys, 'deploy', ['manage'])}"}
    more_than_threads = (
        min(32, (os.cpu_count() or 1) + 4) + 1
    )  # threads of an event loop's executor
    async with started(store.root, keys=keys) as application:

        def wait(change: RegistryChange, name: str, number: int) -> None:
            assert gate.wait(PATIENCE_SECONDS)
            prove_version(change, name, number)

        monkeypatch.setattr(operations, "prove_version", wait)
        requests = []
        for number in range(more_than_threads):
            client = RawClient(f"{BASE}/versions/{number % 2 + 1}/promote", header)
            client.send_body(f'{{"why": "{number}"}}'.encode())
            requests.append(asyncio.create_task(client.request(application.app)))
            await until(client.messages.empty)
        for _ in range(1000):  # requests that wait for nothing reach a thread
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(HANGS_SECONDS):
                await asyncio.to_thread(lambda: None)
        finally:
            gate.set()
            clients = await asyncio.gather(*requests)
    assert {client.status for client in clients} == {200}
    assert [event.why for event in store.aliases(MODEL).history("production")[1:]] == [
        *map(str, range(more_than_threads))
    ]


@pytest.mark.anyio
async def test_cancelled_changes_take_no_threads_of_the_event_loop(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread cannot be cancelled, so they would be taken one after the other."""
    publish(store)
    keys, gate = store.root.parent / "keys.json", threading.Event()
    header = {"authorization": f"Bearer {add_key(keys, 'deploy', ['manage'])}"}
    async with started(store.root, keys=keys) as application:
        monkeypatch.setattr(operations, "prove_version", lambda *_: gate.wait(PATIENCE_SECONDS))
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        for _ in range(2):
            client = RawClient(f"{BASE}/versions/1/load", header)
            client.send_body(b"")
            request = asyncio.create_task(client.request(application.app))
            await until(client.messages.empty)
            for _ in range(1000):
                await asyncio.sleep(0)
            request.cancel()
            await asyncio.wait([request])
        try:
            async with asyncio.timeout(HANGS_SECONDS):
                await asyncio.to_thread(lambda: None)
        finally:
            gate.set()


def test_alias_of_the_policy_selects_the_version(store: ModelStore) -> None:
    """A replica that follows canary serves the version of canary."""
    for _ in range(3):
        publish(store)
    store.promote(MODEL, 1)
    with operating(store, "--version-policy", "alias:canary") as operator:
        assert operator.version() == 1
        operator.client.put(f"{BASE}/aliases/canary", json={"version": 3}).raise_for_status()
        assert operator.version() == 3
        detail = operator.done("versions/2/promote")
        assert (detail["version"], detail["version_policy"]) == (3, "alias:canary")


def test_version_that_fails_its_proof_is_not_promoted(store: ModelStore) -> None:
    """A version that fails its proof is neither promoted nor loaded."""
    publish(store)
    store.promote(MODEL, 1)
    publish_deviating(store)
    with operating(store) as operator:
        for path in ("versions/2/promote", "versions/2/load"):
            check_problem(operator.post(path), 409, "version_failed")
        check_problem(
            operator.client.put(f"{BASE}/aliases/canary", json={"version": 2}),
            409,
            "version_failed",
        )
        detail = operator.client.get(BASE).json()
        assert (states(detail), detail["aliases"]) == ({1: "ready", 2: "error"}, {"production": 1})
        assert operator.version() == 1


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["model.onnx", MANIFEST_NAME, "golden"])
async def test_unreadable_version_is_not_ready(store: ModelStore, name: str) -> None:
    """An unreadable version is a 503 that leaves no mark, and the same call works later."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    keys, file = store.root.parent / "keys.json", store.root / MODEL / "2" / name
    header = {"authorization": f"Bearer {add_key(keys, 'deploy', ['manage'])}"}
    mode = file.stat().st_mode
    with unprivileged():
        async with started(store.root, keys=keys) as application:
            # A trial could read every file, because a new process of root has all privileges.
            version = f"{BASE}/versions/2"
            assert (await application.client.post(f"{version}/load", headers=header)).is_success
            assert (await application.client.delete(f"{version}/hold", headers=header)).is_success
            await asyncio.wait_for(
                until(lambda: not application.registry.states(MODEL).get(2)), PATIENCE_SECONDS
            )
            file.chmod(0)
            for path in ("versions/2/load", "versions/2/promote"):
                response = await application.client.post(f"{BASE}/{path}", headers=header)
                check_problem(response, 503, "not_ready")
                assert f"version 2 of {MODEL}" in response.json()["detail"]
            assert states((await application.client.get(BASE)).json()) == {
                1: "ready",
                2: "available",
            }
            file.chmod(mode)
            assert (
                await application.client.post(f"{BASE}/versions/2/load", headers=header)
            ).status_code == 200
    assert store.aliases(MODEL).version("production") == 1


def test_rollback_to_a_failing_version_is_not_written(store: ModelStore) -> None:
    """A rollback to a version that fails does not move the alias."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    store.promote(MODEL, 2)
    with operating(store) as operator:
        alter(store, 1)
        check_problem(operator.post("rollback"), 409, "version_failed")
        assert operator.version() == 2
    assert store.aliases(MODEL).version("production") == 2


@pytest.mark.anyio
async def test_concurrent_rollback_is_rejected(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback is rejected if the alias moved after its version was proven."""
    for number in (1, 2, 3):
        publish(store)
        store.promote(MODEL, number)
    keys = store.root.parent / "keys.json"
    header = {"authorization": f"Bearer {add_key(keys, 'deploy', ['manage'])}"}
    async with started(store.root, keys=keys) as application:

        def prove_while_another_moves(change: RegistryChange, name: str, number: int) -> None:
            prove_version(change, name, number)
            store.rollback(name)

        monkeypatch.setattr(operations, "prove_version", prove_while_another_moves)
        response = await application.client.post(f"{BASE}/rollback", headers=header)
        check_problem(response, 409, "alias_not_moved")
    assert store.aliases(MODEL).version("production") == 2


def test_promotion_undoes_an_unload(store: ModelStore) -> None:
    """Promoting a version that was unloaded here makes it serve here."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    with operating(store) as operator:
        operator.done("versions/2/unload")
        detail = operator.done("versions/2/promote")
        assert (detail["version"], detail["versions"][1]["held"]) == (2, None)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/models/absent/versions/1/load", None, 404, "model_not_found"),
        ("POST", f"{BASE}/versions/9/load", None, 404, "version_not_found"),
        ("POST", f"{BASE}/versions/9/unload", None, 404, "version_not_found"),
        ("DELETE", f"{BASE}/versions/9/hold", None, 404, "version_not_found"),
        ("POST", f"{BASE}/versions/9/promote", None, 404, "version_not_found"),
        ("POST", f"{BASE}/versions/01/load", None, 400, "invalid_parameter"),
        ("POST", "/v1/models/a..%20b/versions/1/load", None, 400, "invalid_parameter"),
        ("POST", "/v1/models/absent/rollback", None, 404, "model_not_found"),
        ("POST", f"{BASE}/rollback", None, 409, "alias_not_moved"),
        ("POST", f"{BASE}/rollback", b"{", 400, "malformed_json"),
        ("POST", f"{BASE}/versions/1/promote", b'{"because": 1}', 400, "malformed_json"),
        (
            "POST",
            f"{BASE}/versions/1/promote",
            b'{"why": "' + b"x" * 1001 + b'"}',
            400,
            "malformed_json",
        ),
        ("POST", f"{BASE}/versions/1/promote", b" " * 20_000, 413, "body_too_large"),
        ("PUT", f"{BASE}/aliases/canary", None, 400, "malformed_json"),
        ("PUT", f"{BASE}/aliases/canary", b'{"version": "1"}', 400, "malformed_json"),
        ("PUT", f"{BASE}/aliases/canary", b'{"version": 0}', 400, "malformed_json"),
        ("PUT", f"{BASE}/aliases/canary", b'{"version": 9}', 404, "version_not_found"),
        ("PUT", f"{BASE}/aliases/1", b'{"version": 1}', 400, "invalid_parameter"),
        ("PUT", f"{BASE}/aliases/.hidden", b'{"version": 1}', 400, "invalid_parameter"),
        ("GET", f"{BASE}/versions/1/load", None, 405, "method_not_allowed"),
    ],
)
def test_invalid_operations_have_a_code_and_change_nothing(
    operator: Operator, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    """Each invalid operation has its status and code and changes nothing."""
    check_problem(operator.client.request(method, path, content=body), status, code)
    assert states(operator.client.get(BASE).json()) == {1: "ready"}
    assert operator.client.get(BASE).json()["aliases"] == {}


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """One server for the operations that change nothing."""
    root = tmp_path_factory.mktemp("operator") / "store"
    root.mkdir()
    store = ModelStore(root, builtin_root=None)
    publish(store)
    with operating(store) as operator:
        yield operator


@pytest.mark.anyio
async def test_read_only_store_is_reported(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a read-only store, a replica loads and unloads and rejects moves with a hint."""
    publish(store)
    publish(store)
    store.promote(MODEL, 1)
    keys = store.root.parent / "keys.json"
    header = {"authorization": f"Bearer {add_key(keys, 'deploy', ['manage'])}"}

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with started(store.root, keys=keys) as application:
        client = application.client
        monkeypatch.setattr("model_store.aliases.write_durably", fail)
        loaded = await client.post(f"{BASE}/versions/2/load", headers=header)
        assert loaded.status_code == 200
        moved = await client.put(f"{BASE}/aliases/canary", json={"version": 2}, headers=header)
        check_problem(moved, 409, "store_read_only")
        assert "python -m model_store promote" in moved.json()["detail"]
        assert (await client.get(BASE)).json()["version"] == 1


def test_built_in_model_has_no_aliases(store: ModelStore) -> None:
    """A built-in model is neither promoted nor rolled back."""
    with operating(store, "--builtin") as operator:
        path = f"/v1/models/{BUILTIN_DEFAULT_MODEL}"
        check_problem(operator.client.post(f"{path}/versions/1/promote"), 409, "alias_not_moved")
        check_problem(operator.client.post(f"{path}/rollback"), 409, "alias_not_moved")
        assert operator.client.post(f"{path}/versions/1/load").status_code == 200
    assert list(store.root.iterdir()) == []


@pytest.mark.anyio
async def test_file_name_outside_utf_8_is_shown_escaped(store: ModelStore) -> None:
    """A version with such a file fails with a reason, and its model can be read and promoted."""
    for _ in range(3):
        publish(store)
    store.promote(MODEL, 1)
    (store.root / MODEL / "3" / "a\nb\udcff").touch()
    (store.root / MODEL / "aliases" / "\udcff").mkdir()
    keys = store.root.parent / "keys.json"
    header = {"authorization": f"Bearer {add_key(keys, 'deploy', ['manage'])}"}
    async with started(store.root, keys=keys) as application:
        client = application.client
        failed = await client.post(f"{BASE}/versions/3/promote", headers=header)
        check_problem(failed, 409, "version_failed")
        assert r"a\nb\udcff is not listed" in failed.json()["detail"]
        shown = await client.get(BASE)
        assert shown.status_code == 200
        assert r"a\nb\udcff" in shown.json()["versions"][2]["reason"]
        promoted = await client.post(f"{BASE}/versions/2/promote", headers=header)
        assert (promoted.status_code, promoted.json()["version"]) == (200, 2)
    assert store.aliases(MODEL).version("production") == 2
