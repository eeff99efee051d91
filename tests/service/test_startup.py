"""The process from start to end: what it prints, rejects and how it stops."""

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from colour_model import MODEL, labels, plain, publish, publish_deviating
from http_problems import check_problem
from operating import eventually
from server_process import (
    PATIENCE_SECONDS,
    REPOSITORY,
    ServerProcess,
    read_response,
    request_head,
    running,
)

from model_store.store import BUILTIN_DEFAULT_MODEL, BUILTIN_ROOT, ModelStore
from service.key_changes import add_key
from service.key_file import read_keys

RED = plain("red")
READ_ONLY = Path("/proc")
"""A working directory in which not even root can make a file."""


def run_printed_command(server: ServerProcess) -> httpx.Response:
    """Run the command that the server printed, with curl or as curl would."""
    match = re.search(r"^  try    (curl .+)$", server.stdout.text, re.MULTILINE)
    assert match, server.stdout.text
    command = shlex.split(match[1])
    assert command[:2] == ["curl", "--data-binary"]
    image = REPOSITORY / command[2].removeprefix("@")
    assert image.is_file()
    if curl := shutil.which("curl"):
        done = subprocess.run(
            [
                curl,
                "--silent",
                "--show-error",
                "--noproxy",
                "*",
                "--write-out",
                "\n%{http_code}",
                *command[1:],
            ],
            cwd=REPOSITORY,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        body, _, status = done.stdout.rpartition(b"\n")
        return httpx.Response(int(status), content=body)
    return httpx.post(
        command[3],
        content=image.read_bytes(),
        headers={"content-type": "application/x-www-form-urlencoded"},
        trust_env=False,
    )


def test_printed_lines_work(server: ServerProcess) -> None:
    """The printed address of the documentation and the printed command work."""
    printed = server.stdout.wait_for(r"^  docs   (\S+)$")
    assert printed
    assert httpx.get(printed[1], trust_env=False).status_code == 200
    page = re.search(r"^  page   (\S+)$", server.stdout.text, re.MULTILINE)
    assert page
    assert "text/html" in httpx.get(page[1], trust_env=False).headers["content-type"]
    assert re.search(
        rf"^  model  {MODEL}/1 \(default\): 7 classes$", server.stdout.text, re.MULTILINE
    )
    assert f"{MODEL} answers /v1/predict" in server.stdout.text
    assert "SERVICE_DEFAULT_MODEL" in server.stdout.text
    response = run_printed_command(server)
    assert (response.status_code, labels(response.json()["results"])) == (200, ["red"])


def check_builtin_model(server: ServerProcess) -> None:
    """The built-in model classifies its first golden image correctly."""
    with server.announced().client() as client:
        detail = client.get(f"/v1/models/{BUILTIN_DEFAULT_MODEL}").json()
        assert (detail["state"], detail["layer"], detail["default"]) == ("ready", "built-in", True)
        with ModelStore(BUILTIN_ROOT, builtin_root=None).open(
            BUILTIN_DEFAULT_MODEL, detail["version"]
        ) as version:
            golden = version.manifest.golden[0]
            image = version.path(golden.image).read_bytes()
            expected = version.manifest.class_names[golden.logits.index(max(golden.logits))]
        assert labels(client.post("/v1/predict", content=image).json()["results"]) == [expected]
    response = run_printed_command(server)
    assert (response.status_code, labels(response.json()["results"])) == (200, [expected])


def test_empty_store_serves_the_built_in_model(store: ModelStore) -> None:
    """With an empty store, the built-in model serves."""
    with running("--store", store.root) as server:
        check_builtin_model(server)
    assert list(store.root.iterdir()) == []


def test_published_model_never_becomes_the_default_by_itself(store: ModelStore) -> None:
    """/v1/predict and the printed command keep the built-in model, also after a restart."""
    for name in (MODEL, "other"):
        publish(store, name)
        with running("--store", store.root) as server:
            check_builtin_model(server)
            assert f"{BUILTIN_DEFAULT_MODEL} answers /v1/predict" in server.stdout.text


def test_default_that_does_not_exist_answers_nothing(store: ModelStore) -> None:
    """The terminal does not name it as the model that answers."""
    with running("--store", store.root, "--default-model", "flowers") as server:
        assert server.stdout.wait_for(r"^  NOT SERVED  flowers: SERVICE_DEFAULT_MODEL")
        assert "flowers answers /v1/predict" not in server.stdout.text


def test_missing_store_serves_the_built_in_model_but_is_not_ready(tmp_path: Path) -> None:
    """The terminal says how to create it."""
    with running("--store", tmp_path / "new") as server:
        check_builtin_model(server)
        lines = server.stdout.text.splitlines()
        (number,) = (n for n, line in enumerate(lines) if line.startswith("  NOT READY  "))
        end = next(n for n in range(number, len(lines)) if "--create-store" in lines[n])
        words = " ".join(lines[number : end + 1]).split()
        assert str(tmp_path / "new") in words
        assert all(len(line) <= 80 for line in lines[number : end + 1] if len(line.split()) > 1)
        with server.client() as client:
            assert client.get("/health/ready").status_code == 503
            assert client.get("/v1/models").status_code == 200
            response = client.post(f"/v1/models/{MODEL}/predict", content=RED)
            check_problem(response, 503, "not_ready")
    assert not (tmp_path / "new").exists()


def test_store_is_created_if_asked(tmp_path: Path) -> None:
    """With its parents; a store that exists is kept."""
    store = tmp_path / "new" / "store"
    for _ in range(2):
        with (
            running("--store", store, "--create-store") as server,
            server.announced().client() as client,
        ):
            assert client.get("/health/ready").status_code == 200
        publish(ModelStore(store, builtin_root=None))
    (tmp_path / "file").touch()
    with running("--store", tmp_path / "file" / "store", "--create-store") as server:
        assert server.wait() == 2
        assert server.stderr.wait_for("--create-store")


@pytest.mark.skipif(not READ_ONLY.is_dir(), reason="this system has no /proc")
def test_read_only_working_directory_serves_the_built_in_model() -> None:
    """Without settings and in a read-only directory, the built-in model serves."""
    with running(cwd=READ_ONLY) as server:
        check_builtin_model(server)


def test_settings_come_from_variables_too(colour_store: ModelStore) -> None:
    """A variable sets the store, here a path with a space."""
    spaced = colour_store.root.with_name("a store")
    if not spaced.exists():
        shutil.copytree(colour_store.root, spaced)
    variables = {
        "SERVICE_STORE": str(spaced),
        "SERVICE_BUILTIN": "false",
        "SERVICE_DEFAULT_MODEL": MODEL,
    }
    with running(environment=variables) as server:
        assert labels(run_printed_command(server.announced()).json()["results"]) == ["red"]


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["--port", "http"], {}, "port: .*integer"),
        (["--port", "70000"], {}, "port: .*65535"),
        ([], {"SERVICE_MODELS": "{"}, "models: .*JSON object"),
        (["--models", "{"], {}, "models: .*JSON object"),
        (["--models", "[]"], {}, "models: .*JSON object"),
        (["--models", '{"a": {"instance": 1}}'], {}, "models.a.instance: "),
        ([], {"SERVICE_MAX_BATCH_SIZE": "0"}, "max_batch_size: "),
        (["--batch-size", "3"], {}, "--batch-size"),
        (["--access-log", "false"], {}, "false"),
        (["--providers", "gpu"], {}, "providers: .*'gpu'"),
        (["--providers", "tensorrt,cpu"], {}, "--providers.*Tensorrt.*onnxruntime-gpu"),
        (["stray"], {}, "stray"),
    ],
)
def test_wrong_settings_are_exit_code_2(
    arguments: list[str], environment: Mapping[str, str], expected: str
) -> None:
    """A wrong setting is exit code 2 with its name and without a traceback."""
    server = ServerProcess(*arguments, environment=environment)
    assert server.wait() == 2
    assert re.search(expected, server.stderr.text), server.stderr.text
    assert "--help" in server.stderr.text
    assert "Traceback" not in server.stderr.text


def test_cache_is_filled_and_store_unchanged(colour_store: ModelStore, tmp_path: Path) -> None:
    """The first start writes the optimised graph to the cache, and the second one uses it."""
    before = sorted(colour_store.root.rglob("*"))
    for _ in range(2):
        with running(
            "--store", colour_store.root, "--no-builtin", "--cache", tmp_path / "cache"
        ) as server:
            assert labels(run_printed_command(server.announced()).json()["results"]) == ["red"]
            assert "cache" not in server.stderr.text
        assert len(list((tmp_path / "cache/graphs").iterdir())) == 1
    assert sorted(colour_store.root.rglob("*")) == before


@pytest.mark.parametrize("arguments", [("--cache", "/dev/null"), ("--cache-max-bytes", 0)], ids=str)
def test_service_works_without_a_cache(
    colour_store: ModelStore, arguments: tuple[object, ...]
) -> None:
    """An unusable cache is logged once, a disabled one is not."""
    with running("--store", colour_store.root, "--no-builtin", *arguments) as server:
        assert labels(run_printed_command(server.announced()).json()["results"]) == ["red"]
    assert server.stderr.text.count("without the graph cache") == (arguments[0] == "--cache")


def test_unreadable_store_is_not_ready(tmp_path: Path) -> None:
    """With a missing store, the process is alive and not ready, and the routes answer 503."""
    with (
        running("--store", tmp_path / "nowhere", "--no-builtin") as server,
        server.listening().client() as client,
    ):
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        check_problem(client.post("/v1/predict", content=RED), 503, "not_ready")
        check_problem(client.post(f"/v1/models/{MODEL}/predict", content=RED), 503, "not_ready")
        check_problem(client.get("/v1/models"), 503, "not_ready")
        check_problem(client.get(f"/v1/models/{MODEL}"), 503, "not_ready")
        assert server.process.poll() is None
        assert server.stderr.wait_for("model store unreadable")


@pytest.mark.parametrize("kind", ["unreadable", "empty", "unproven", "missing default"])
def test_address_is_printed_without_serving_models(store: ModelStore, kind: str) -> None:
    """A server without a serving model prints its address and the problem."""
    arguments = ["--no-builtin", "--store", store.root]
    if kind == "unreadable":
        arguments[-1] = store.root / "nowhere"
    if kind == "unproven":
        publish_deviating(store)
    if kind == "missing default":
        publish(store)
        arguments += ["--default-model", "nobody"]
    with running(*arguments) as server:
        server.announced()
        expected = {
            "unreadable": "NOT READY  .+",
            "unproven": f"NOT SERVED  {MODEL}",
            "missing default": "nobody",
        }
        assert re.search(expected.get(kind, ""), server.stdout.text)
        server.end()
    assert "Traceback" not in server.stderr.text


def test_failed_version_is_shown_after_startup(store: ModelStore) -> None:
    """The version before a failed one serves, and the failure has a reason."""
    publish(store)
    publish_deviating(store)
    with (
        running("--store", store.root, "--no-builtin") as server,
        server.announced().client() as client,
    ):
        assert client.post("/v1/predict", content=RED).json()["version"] == 1

        def second() -> dict[str, Any]:
            return client.get(f"/v1/models/{MODEL}").json()["versions"][1]

        eventually(lambda: second()["state"], "error")
        assert second()["version"] == 2
        assert second()["reason"]
        assert client.get("/health/ready").status_code == 200


def test_port_in_use_is_an_error(colour_store: ModelStore) -> None:
    """A port in use is an error without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = ServerProcess("--port", port, "--store", colour_store.root, "--no-builtin")
        assert server.wait() == 3
    assert "--port" in server.stderr.text
    assert "Traceback" not in server.stderr.text


def test_port_in_use_is_found_before_models_load(store: ModelStore) -> None:
    """Loading many models first would take a supervisor's time at each restart."""
    for number in range(20):
        publish(store, model=f"colours-{number}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = ServerProcess(
            "--port", taken.getsockname()[1], "--store", store.root, "--no-builtin"
        )
        assert server.wait() != 0
    assert "version ready" not in server.stderr.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_the_start_ends_it(store: ModelStore, number: signal.Signals) -> None:
    """The models that are not loaded yet stay so."""
    for model in range(60):
        publish(store, model=f"colours-{model}")
    with running("--store", store.root, "--no-builtin") as server:
        assert server.stderr.wait_for("version ready")
        assert server.end(number) == 0
    assert server.stderr.text.count("version ready") < 60
    assert "Traceback" not in server.stderr.text


def test_drain_delay_keeps_the_listener_open(colour_store: ModelStore) -> None:
    """The replica is not ready at once, and answers and closes new and old connections."""
    arguments = ("--store", colour_store.root, "--no-builtin", "--drain-delay-seconds", 3600)
    with running(*arguments) as server, server.announced().connect() as old:
        old.sendall(request_head(Content_Length=len(RED)) + RED)
        assert "connection" not in read_response(old).headers
        server.process.send_signal(signal.SIGINT)
        assert server.stderr.wait_for("draining seconds=3600")
        assert httpx.get(f"{server.address}/health/ready", trust_env=False).status_code == 503
        assert httpx.get(f"{server.address}/health/live", trust_env=False).status_code == 200
        with server.connect() as new:
            for connection in (old, new):
                connection.sendall(request_head(Content_Length=len(RED)) + RED)
                response = read_response(connection)
                assert response.status_code == 200
                assert response.headers["connection"] == "close"
        server.end(signal.SIGINT)


def test_no_request_is_lost_in_a_drain(colour_store: ModelStore) -> None:
    """Clients that keep their connections until they are told to close get every response."""
    with running("--store", colour_store.root, "--no-builtin") as server:
        server.announced()
        begun = threading.Barrier(5)

        def predict_until_closed() -> int:
            with server.connect() as connection:
                count = 0
                while True:
                    connection.sendall(request_head(Content_Length=len(RED)) + RED)
                    response = read_response(connection)
                    assert response.status_code == 200
                    if response.headers.get("connection") == "close":
                        return count
                    if (count := count + 1) == 10:
                        begun.wait(PATIENCE_SECONDS)

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(predict_until_closed) for _ in range(4)]
            begun.wait(PATIENCE_SECONDS)
            server.process.send_signal(signal.SIGTERM)
            assert all(client.result(PATIENCE_SECONDS) >= 10 for client in clients)


@pytest.mark.slow
def test_idle_connection_is_not_closed_before_a_proxy_would(colour_store: ModelStore) -> None:
    """An idle connection outlives uvicorn's default of 5 s."""
    with (
        running("--store", colour_store.root) as server,
        server.announced().connect() as connection,
    ):
        for pause in (6.0, 0.0):
            connection.sendall(request_head(Content_Length=len(RED)) + RED)
            assert read_response(connection).status_code == 200
            time.sleep(pause)


def test_sigterm_lets_an_open_request_end(colour_store: ModelStore) -> None:
    """A request that is open at SIGTERM is answered before the process ends."""
    with (
        running("--store", colour_store.root, "--no-builtin") as server,
        server.announced().connect() as connection,
    ):
        connection.sendall(request_head(Content_Length=len(RED), Expect="100-continue"))
        assert connection.recv(25).startswith(
            b"HTTP/1.1 100 Continue\r\n"
        )  # so the request is being answered
        server.process.send_signal(signal.SIGTERM)
        assert server.stderr.wait_for("Waiting for connections to close|Shutting down")
        connection.sendall(RED)
        assert labels(read_response(connection).json()["results"]) == ["red"]
        code = server.wait()
    assert code == 0
    assert "Traceback" not in server.stderr.text


def test_open_request_ends_after_shutdown_seconds(colour_store: ModelStore) -> None:
    """A request that never ends does not keep the process longer than shutdown_seconds."""
    arguments = ("--store", colour_store.root, "--no-builtin", "--shutdown-seconds", 1)
    with running(*arguments) as server, server.announced().connect() as connection:
        connection.sendall(request_head(Content_Length=1000, Expect="100-continue"))
        assert connection.recv(25).startswith(b"HTTP/1.1 100 Continue\r\n")
        assert server.end(signal.SIGTERM) == 0


def test_ctrl_c_ends_without_a_traceback(colour_store: ModelStore) -> None:
    """Ctrl-C ends the server without a traceback."""
    with running("--store", colour_store.root, "--no-builtin") as server:
        server.announced()
        server.end(signal.SIGINT)
    assert "Traceback" not in server.stderr.text
    assert "Finished server process" in server.stderr.text


@pytest.mark.parametrize(
    ("host", "with_key", "is_open"),
    [("0.0.0.0", False, True), ("0.0.0.0", True, False), ("127.0.0.1", False, False)],
)
def test_public_address_without_keys_says_how_to_require_one(
    colour_store: ModelStore, tmp_path: Path, host: str, with_key: bool, is_open: bool
) -> None:
    """The lines contain a command that can be pasted."""
    keys = tmp_path / "keys.json"
    add_key(keys, "app", ["predict" if with_key else "metrics"])
    arguments = ("--store", colour_store.root, "--no-builtin", "--host", host, "--keys", keys)
    with running(*arguments) as server:
        server.announced()
        server.end()
    assert ("  OPEN  " in server.stdout.text) is is_open
    assert ("need no API key" in server.stderr.text) is is_open
    if is_open:
        command = re.search(r"python -m service (keys .*)$", server.stdout.text, re.MULTILINE)
        assert command
        add = [sys.executable, "-m", "service", *shlex.split(command[1].replace("NAME", "new"))]
        subprocess.run(add, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
        assert {key.name for key in read_keys(keys)} == {"app", "new"}
