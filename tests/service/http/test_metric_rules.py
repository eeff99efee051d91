"""The metrics keep Prometheus' rules, and no client can add a label value."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from colour_model import MODEL, make_store, plain, publish
from exposition import find_sample, series
from server_process import ServerProcess, read_response, request_head, running

from service.error_codes import ERROR_CODES
from service.errors import RejectionReason

OUTCOMES = {"ok", "client_closed_request", "http_error", *ERROR_CODES}
VERSION = {"model": MODEL, "version": "1"}


@pytest.fixture(scope="module")
def metric_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    store = make_store(tmp_path_factory.mktemp("metrics") / "store")
    publish(store)
    with running("--store", store.root, "--no-builtin", "--triton-metrics") as server:
        yield server.announced()


def send_strange_requests(client: httpx.Client, word: str) -> None:
    """Requests of all kinds with a word in every place that a client can choose."""
    red = plain("red")
    for path in (
        f"/v1/models/{word}/predict",
        f"/v1/models/{MODEL}/versions/{int.from_bytes(word[:4].encode())}/predict",
        f"/v1/models/{MODEL}/versions/{word}/predict",
        f"/v1/models/{MODEL}/aliases/{word}/predict",
        f"/v1/predict?top_k={word}",
        f"/v1/predict?{word}={word}",
        f"/v2/models/{word}/infer",
        f"/v1/models/{word}:predict",
        f"/{word}",
    ):
        client.post(path, content=red)
        client.post(path, content=word.encode())
        client.request(word.upper(), path)
    for name in ("X-Request-Id", "Content-Type", "Content-Encoding", "Authorization", word):
        client.post("/v1/predict", content=red, headers={name: word})


def test_a_client_adds_no_series(metric_server: ServerProcess) -> None:
    with metric_server.client() as client:
        assert client.post("/v1/predict", content=plain("red")).status_code == 200
        send_strange_requests(client, "first")
        send_strange_requests(client, "second")  # the last of the first are counted by now
        before = client.get("/metrics").text
        send_strange_requests(client, "third")
        after = client.get("/metrics").text
    assert series(before) == series(after)
    labels = {label for _, labels in series(after) for label in labels}
    assert {value for name, value in labels if name == "model"} == {"", MODEL}
    assert {value for name, value in labels if name == "version" and "." not in value} == {"1"}
    assert {value for name, value in labels if name == "outcome"} <= OUTCOMES
    reasons = {"invalid", "slow_head", "cancelled", "deadline", *RejectionReason.__args__}
    triton = {"REJECTED", "CANCELED", "BACKEND", "OTHER"}
    assert {value for name, value in labels if name == "reason"} <= reasons | triton


def test_promtool_finds_no_fault(metric_server: ServerProcess) -> None:
    """Names, units, types and help follow Prometheus' rules. Triton's names (`nv_`) do not."""
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("needs promtool, which Debian's package prometheus contains")
    with metric_server.client() as client:
        client.post("/v1/predict", content=plain("red"))
        lines = client.get("/metrics").text.splitlines(keepends=True)
    own = "".join(line for line in lines if "nv_" not in line.split("{")[0])
    assert "resident_stage_seconds_bucket" in own
    done = subprocess.run(
        [promtool, "check", "metrics"], input=own, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_malformed_requests_are_counted(metric_server: ServerProcess) -> None:
    def count(client: httpx.Client) -> float:
        text = client.get("/metrics").text
        return find_sample(text, "resident_malformed_requests_total", {"reason": "invalid"})

    with metric_server.client() as client, metric_server.connect() as connection:
        before = count(client)
        connection.sendall(b"nonsense\r\n\r\n")
        assert read_response(connection).status_code == 400
        assert count(client) == before + 1


def test_triton_names_have_the_same_counts(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    publish(store)
    flags = ("--store", store.root, "--no-builtin", "--triton-metrics")
    with running(*flags) as server, server.announced().client() as client:
        for _ in range(3):
            client.post("/v1/predict", content=plain("red"))
        client.post("/v1/predict", content=b"nothing")
        text = client.get("/metrics").text
    for name, value in (("request_success", 3), ("count", 3), ("exec_count", 3)):
        assert find_sample(text, f"nv_inference_{name}", VERSION) == value
    assert find_sample(text, "nv_inference_request_failure", VERSION | {"reason": "OTHER"}) == 1
    assert find_sample(text, "nv_inference_request_failure", VERSION | {"reason": "REJECTED"}) == 0
    total = find_sample(text, "nv_inference_request_duration_us", VERSION)
    parts = sum(
        find_sample(text, f"nv_inference_{part}_duration_us", VERSION)
        for part in ("queue", "compute_input", "compute_infer", "compute_output")
    )
    assert 0 < parts <= total


def test_triton_names_are_off_by_default(client: httpx.Client) -> None:
    assert "nv_" not in client.get("/metrics").text


def test_a_slow_head_is_counted(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    publish(store)
    flags = ("--store", store.root, "--no-builtin", "--body-timeout-seconds", 0.2)
    with running(*flags) as server, server.announced().client() as client:
        with server.connect() as connection:
            connection.sendall(request_head()[:20])
            assert connection.recv(100) == b""
        text = client.get("/metrics").text
    assert find_sample(text, "resident_malformed_requests_total", {"reason": "slow_head"}) == 1
