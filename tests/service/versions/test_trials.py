"""A version that hangs, allocates without end or crashes harms only the process that tries it."""

import os
import re
import secrets
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from resource import RLIMIT_DATA, prlimit

import httpx
import pytest
from colour_model import MODEL, SIZE, WEIGHTS, labels, plain, publish, publish_deviating
from http_problems import check_problem
from operating import eventually
from registries import options
from server_process import PATIENCE_SECONDS, ServerProcess, running
from slow_model import slow_model_bytes

from model_store.graph_cache import FOLDER as GRAPHS
from model_store.graph_cache import GraphCache
from model_store.session import SessionOptions
from model_store.store import ModelStore
from model_store.temporary import PREFIX
from service.engine.options import EngineOptions
from service.errors import NotReadyError
from service.host.output_tail import MAX_LINES
from service.http.health import describe_health
from service.key_changes import add_key
from service.startup_text import describe_startup
from service.versions import due, trial, trials
from service.versions.loading import prove_version, try_version
from service.versions.reconciler import reconcile
from service.versions.registry import Registry
from service.versions.trial_records import FOLDER, TrialRecords
from service.versions.trials import Trials

BAD = "bad"
RED = plain("red")
STARTED = r"version trial started model=bad version=1 pid=(\d+)"
FAILED = r"version failed model=bad version=1 reason='(.+)'"
LONG_SECONDS = 3600
MEBIBYTE = 1024 * 1024


def publish_bad(store: ModelStore, model: str = BAD, *, greedy: bool = False) -> int:
    """Publish a version whose golden proof never ends, and may also allocate without end."""
    file = slow_model_bytes(SIZE, SIZE, WEIGHTS, greedy=greedy)
    return publish(store, model, file=file, golden=("red", "white"))


@pytest.fixture
def flags(store: ModelStore, tmp_path: Path) -> tuple[object, ...]:
    return (
        *("--store", store.root, "--no-builtin", "--store-poll-seconds", 0.05),
        *("--cache", tmp_path / "cache", "--default-model", MODEL),
    )


@contextmanager
def managed(store: ModelStore, *arguments: object) -> Iterator[tuple[ServerProcess, httpx.Client]]:
    """A server that listens, and a client with a manage key."""
    keys = store.root.parent / "keys.json"
    secret = add_key(keys, f"key-{secrets.token_hex(4)}", ["manage"])
    with (
        running(*arguments, "--keys", keys) as server,
        server.listening().client() as client,
    ):
        client.headers["Authorization"] = f"Bearer {secret}"
        yield server, client


class Promotion:
    """A request to promote a version, sent by another thread."""

    def __init__(self, client: httpx.Client, model: str, number: int) -> None:
        path = f"/v1/models/{model}/versions/{number}/promote"
        self._responses: list[httpx.Response] = []
        self._thread = threading.Thread(
            target=lambda: self._responses.append(client.post(path, json={"why": "test"}))
        )
        self._thread.start()

    def response(self) -> httpx.Response:
        self._thread.join(PATIENCE_SECONDS)
        return self._responses[0]


def crash(server: ServerProcess) -> None:
    """End the trial by a signal that also a fault of ONNX Runtime would cause."""
    started = server.stderr.wait_for(STARTED)
    assert started
    pid, inherited = int(started[1]), prlimit(server.process.pid, RLIMIT_DATA)
    eventually(lambda: prlimit(pid, RLIMIT_DATA) == inherited, False)  # it has set its own
    os.kill(pid, signal.SIGSEGV)


def nothing(_: ServerProcess) -> None:
    """The limits end the trial."""


def answers_red(client: httpx.Client) -> bool:
    response = client.post(f"/v1/models/{MODEL}/predict", content=RED)
    return response.status_code == 200 and labels(response.json()["results"]) == ["red"]


def bad_state(client: httpx.Client) -> str:
    return str(client.get(f"/v1/models/{BAD}").json()["versions"][0]["state"])


@pytest.mark.parametrize(
    ("greedy", "limits", "end_trial", "setting"),
    [
        (False, ("--load-timeout-seconds", 2), nothing, "SERVICE_LOAD_TIMEOUT_SECONDS"),
        (True, ("--load-memory-bytes", 256 * MEBIBYTE), nothing, "SERVICE_LOAD_MEMORY_BYTES"),
        (False, (), crash, "SIGSEGV"),
    ],
    ids=["hangs", "allocates", "crashes"],
)
def test_version_that_kills_its_process_harms_nothing_else(
    store: ModelStore,
    flags: tuple[object, ...],
    greedy: bool,
    limits: tuple[object, ...],
    end_trial: Callable[[ServerProcess], None],
    setting: str,
) -> None:
    """Others serve meanwhile. It is tried again when it is promoted, but not after a restart."""
    publish(store)
    with running(*flags) as server:
        server.announced()
    publish_bad(store, greedy=greedy)
    with managed(store, *flags, *limits) as (server, client):
        assert server.stderr.wait_for(STARTED)
        eventually(lambda: answers_red(client), True)
        end_trial(server)
        failed = server.stderr.wait_for(FAILED)
        assert failed
        assert setting in failed[1]
        eventually(lambda: bad_state(client), "error")
        assert server.announced().process.poll() is None
        assert answers_red(client)
        assert server.end() == 0
    with managed(store, *flags, *limits) as (server, client):
        server.announced()
        assert (bad_state(client), answers_red(client)) == ("error", True)
        assert setting in client.get(f"/v1/models/{BAD}").json()["versions"][0]["reason"]
        assert not re.search("version trial started", server.stderr.text)
        promoting = Promotion(client, BAD, 1)
        end_trial(server)
        check_problem(promoting.response(), 409, "version_failed")
        assert len(re.findall(STARTED, server.stderr.text)) == 1
        store.promote(BAD, 1)
        assert server.stderr.wait_for(f"(?s){STARTED}.*{STARTED}")
        assert server.end() == 0


@pytest.mark.parametrize("when", ["start", "reconciliation", "promotion"])
def test_sigterm_ends_a_trial(store: ModelStore, flags: tuple[object, ...], when: str) -> None:
    """The process ends at once and in order, although the trial would take an hour."""
    store.promote(MODEL, publish(store))  # so that no other version is tried by itself
    if when == "start":
        publish_bad(store)
    with managed(store, *flags, "--load-timeout-seconds", LONG_SECONDS) as (server, client):
        if when != "start":
            server.announced()
        number = publish_bad(store, MODEL if when == "promotion" else BAD)
        wanted = f"model={MODEL} version={number}" if when == "promotion" else f"model={BAD}"
        promoting = Promotion(client, MODEL, number) if when == "promotion" else None
        started = server.stderr.wait_for(rf"version trial started {wanted}.* pid=(\d+)")
        assert started
        assert server.end() == 0
        if promoting:
            check_problem(promoting.response(), 503, "not_ready")
    assert not Path(f"/proc/{started[1]}").exists()
    assert "Traceback" not in server.stderr.text


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux ends it with the service")
def test_killed_service_leaves_no_trial(store: ModelStore, flags: tuple[object, ...]) -> None:
    """Its process ends with the service."""
    publish_bad(store)
    with running(*flags, "--load-timeout-seconds", LONG_SECONDS) as server:
        started = server.stderr.wait_for(STARTED)
        assert started
        server.process.kill()
        server.process.wait(PATIENCE_SECONDS)
        eventually(lambda: _runs(int(started[1])), False)


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]
    except OSError:
        return False


def test_known_version_serves_while_its_successor_is_on_trial(
    store: ModelStore, flags: tuple[object, ...]
) -> None:
    """A replica that restarts is ready with it."""
    store.promote(MODEL, publish(store))
    with running(*flags) as server:
        server.announced()
    store.promote(MODEL, publish_bad(store, MODEL))
    with (
        running(*flags, "--load-timeout-seconds", LONG_SECONDS) as server,
        server.announced().client() as client,
    ):
        assert client.get("/health/ready").status_code == 200
        detail = client.get(f"/v1/models/{MODEL}").json()
        assert (detail["version"], detail["state"]) == (1, "ready")
        assert [version["state"] for version in detail["versions"]] == ["ready", "loading"]
        assert answers_red(client)


@pytest.fixture
def registry(store: ModelStore, tmp_path: Path) -> Iterator[Registry]:
    """A registry with real trials, and a cache of graphs."""
    cache = tmp_path / "cache"
    graphs = GraphCache(cache, 10**8)
    registry = Registry(
        store,
        lambda _: EngineOptions(SessionOptions(graphs=graphs), max_batch_size=8),
        trials=Trials(TrialRecords(cache), LONG_SECONDS),
    )
    yield registry
    registry.close()


def serve(registry: Registry, model: str = MODEL) -> int | None:
    """Try the newest version of a model, and return the version that serves."""
    try_version(registry, model, registry.store.versions(model)[-1])
    reconcile(registry)
    serving = registry.models[model].default_version
    return serving.version.number if serving else None


def load(registry: Registry) -> None:
    """Try and load a version at once, as an operator does."""
    try_version(registry, MODEL, 1)
    with registry.exclusive() as change:
        prove_version(change, MODEL, 1)


def test_trial_fills_the_graph_cache(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service maps the graph, and takes over what the trial has measured."""
    weights = {"weights.bin": b"not used"}
    publish(registry.store, extra=weights)
    monkeypatch.setattr(GraphCache, "_build", lambda *_: pytest.fail("built in the service"))
    assert serve(registry) == 1
    assert len(list((tmp_path / "cache" / GRAPHS).iterdir())) == 1
    loaded = registry.find(MODEL)
    assert (loaded.selected_variant.precision, loaded.max_batch_size) == ("fp32", 8)


def test_version_that_hangs_delays_no_other(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next trial overtakes it. A model on trial is shown as loading."""
    monkeypatch.setattr(trials, "OVERTAKE_SECONDS", 0.0)
    publish_bad(registry.store)
    publish(registry.store)
    reconcile(registry)
    assert serve(registry) == 1
    assert registry.models[BAD].state == "loading"
    assert registry.states(BAD) == {1: "loading"}
    assert not registry.loaded


def test_model_on_trial_is_not_shown_as_failed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by readiness nor by the lines that the start prints."""
    monkeypatch.setattr(due, "STARTUP_TRIAL_SECONDS", 0.0)
    publish_bad(registry.store)
    reconcile(registry)
    assert registry.loaded
    shown = [describe_health(registry).reason, *describe_startup(registry, "http://localhost")]
    (health, line) = [text for text in shown if text and BAD in text]
    assert health == f"still loading {BAD}"
    assert line.split()[:2] == ["LOADING", f"{BAD}:"]


def test_version_that_fails_its_proof_is_tried_again_only_after_a_promotion(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """A new registry tries it again: only the death of a process is kept on disk."""
    store = registry.store
    store.promote(MODEL, publish_deviating(store))
    caplog.set_level("INFO")
    assert serve(registry) is None
    reconcile(registry)
    assert list(registry.models[MODEL].errors) == [1]
    started = [line for line in caplog.messages if line.startswith("version trial started")]
    assert len(started) == 1
    store.promote(MODEL, 1)
    reconcile(registry)
    assert registry.models[MODEL].on_trial == {1}


def test_process_that_cannot_be_started_is_not_the_fault_of_the_version(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again."""
    publish(registry.store)
    with monkeypatch.context() as patch:
        patch.setattr(trial.sys, "executable", "/nonexistent")
        assert serve(registry) is None
        assert set(registry.models[MODEL].retry_at) == {1}
    with monkeypatch.context() as patch:
        patch.setattr(trial, "_PROGRAM", "raise SystemExit(7)")
        with pytest.raises(NotReadyError, match="exit code 7"):
            load(registry)
    load(registry)
    assert registry.find(MODEL).version.number == 1


def test_process_that_dies_leaves_its_last_words_and_no_files(
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log of the service has the end of its stderr, however long that is; clients do not."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(
        trial,
        "_PROGRAM",
        "import os, sys, tempfile\n"
        "tempfile.mkstemp(dir=tempfile.mkdtemp(prefix='resident-'))\n"
        "for number in range(100_000): print('\\33[1;31mline', number, '\\33[m', file=sys.stderr)\n"
        "sys.stderr.flush()\n"
        "os.kill(os.getpid(), 9)",
    )
    caplog.set_level("INFO")
    (tmp_path / f"{PREFIX}trial-killed" / "folder").mkdir(parents=True)
    publish(registry.store)
    assert serve(registry) is None
    output = [line for line in caplog.messages if line.startswith("version trial output")]
    assert len(output) == MAX_LINES
    assert output[-1].endswith("line='line 99999 '")
    assert "99999" not in registry.models[MODEL].errors[1]
    assert not [path for path in tmp_path.iterdir() if "resident-" in path.name]


@pytest.mark.parametrize("content", [None, b"", b"{}", b"x" * 100_000])
def test_unreadable_record_means_a_new_trial(
    registry: Registry, tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a record that is missing, empty, not valid or too large."""
    publish(registry.store)
    assert serve(registry) == 1
    (record,) = (tmp_path / "cache" / FOLDER).iterdir()
    assert b'"failure":null' in record.read_bytes()
    if content is None:
        record.unlink()
    else:
        record.write_bytes(content)
    caplog.set_level("INFO")
    other = Registry(
        registry.store, options, trials=Trials(TrialRecords(tmp_path / "cache"), LONG_SECONDS)
    )
    assert serve(other) == 1
    other.close()
    assert any(line.startswith("version trial started") for line in caplog.messages)
    assert b'"failure":null' in record.read_bytes()


def test_unusable_cache_is_logged_once(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    """Trials then are remembered only until the process ends."""
    registry = Registry(
        store, options, trials=Trials(TrialRecords(Path("/dev/null")), LONG_SECONDS)
    )
    publish(store)
    publish(store, "other")
    assert (serve(registry), serve(registry, "other")) == (1, 1)
    registry.close()
    assert len([line for line in caplog.messages if "not remembered" in line]) == 1
