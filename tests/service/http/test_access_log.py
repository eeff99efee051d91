"""Request ids and the access log, on a real server."""

import asyncio
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
from asgi_application import started, until
from colour_model import plain
from server_process import ENVIRONMENT, PATIENCE_SECONDS, REPOSITORY, ServerProcess, running

from model_store.store import ModelStore
from service import stderr_log
from service.http import access_log
from service.http.access_log import LoggedRequest, LogRateLimit, log_request
from service.http.request_ids import RequestIds
from service.log_format import JsonFormatter, LineFormatter
from service.stderr_log import StderrHandler

RECORDED_AT = 1_796_031_000.0071
"""2026-11-30, 09:30 UTC."""


def test_request_id_is_created_or_kept(client: httpx.Client) -> None:
    """Predictions, errors and other routes have it."""
    ids = [
        client.post("/v1/predict", content=plain("red")).headers["x-request-id"],
        client.post("/v1/predict", content=b"x").headers["x-request-id"],
        client.get("/v1/models").headers["x-request-id"],
        client.get("/nowhere").headers["x-request-id"],
    ]
    assert len(set(ids)) == 4
    for path in ("/v1/models", "/health/live"):
        assert (
            client.get(path, headers={"x-request-id": "trace:1/a"}).headers["x-request-id"]
            == "trace:1/a"
        )
    assert (
        client.post("/v1/predict", content=plain("red"), headers={"x-request-id": "b-2"}).headers[
            "x-request-id"
        ]
        == "b-2"
    )


@pytest.mark.parametrize("sent", ["two words", "x" * 129, 'quo"te', ""])
def test_unsafe_request_id_is_replaced(client: httpx.Client, sent: str) -> None:
    """A client cannot forge log lines."""
    assert re.fullmatch(
        "[0-9a-f]{16}",
        client.get("/health/live", headers={"x-request-id": sent}).headers["x-request-id"],
    )


def test_request_is_one_line(server: ServerProcess, client: httpx.Client) -> None:
    """Client, method, path as sent, status, model, version, images, and the id of the response."""
    response = client.post("/v1/models/colours/predict?top_k=1", content=plain("red"))
    identity = response.headers["x-request-id"]
    pattern = (
        r'127\.0\.0\.1 "POST /v1/models/colours/predict" 200 [0-9.]+ ms '
        rf"ok colours/1 images=1 id={identity}$"
    )
    assert server.stderr.wait_for(pattern)
    missing = client.get("/v1/mod%0Aels")
    assert server.stderr.wait_for(
        rf'"GET /v1/mod%0Aels" 404 [0-9.]+ ms id={missing.headers["x-request-id"]}$'
    )


@pytest.mark.anyio
async def test_each_request_has_a_record_of_its_own(colour_store: ModelStore) -> None:
    """Requests that end in the same batch too: a JSON handler gets one request per record."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("service.http.access_log")
    logger.addHandler(handler)
    try:
        async with started(colour_store.root) as application:
            model = application.hold_model()
            names = [f"request-{number}" for number in range(4)]
            requests = [
                asyncio.create_task(
                    application.client.post(
                        "/v1/predict", content=plain("red"), headers={"x-request-id": name}
                    )
                )
                for name in names
            ]
            await until(lambda: application.served().admitted.images == 4)
            model.gate.set()
            await asyncio.gather(*requests)
    finally:
        logger.removeHandler(handler)
    lines = [record.getMessage() for record in records]
    assert sorted(line.rpartition("id=")[2] for line in lines) == names
    assert not [line for line in lines if "\n" in line]


@contextmanager
def stderr_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[IO[bytes], StderrHandler]]:
    """The reading end of stderr, and a handler that writes to it."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", 0) as reader, os.fdopen(writing, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        handler = StderrHandler()
        yield reader, handler
        handler.flush()


def log(handler: logging.Handler, text: str) -> None:
    handler.handle(logging.makeLogRecord({"msg": text}))


def test_records_of_all_threads_are_written_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread writes them, soon and without a flush."""
    with stderr_pipe(monkeypatch) as (reader, handler):
        log(handler, "one")
        thread = threading.Thread(target=log, args=(handler, "two"))
        thread.start()
        thread.join()
        received = b""
        while len(received) < len(b"one\ntwo\n"):
            received += reader.read(100)
        assert received == b"one\ntwo\n"


def test_flush_writes_what_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of the process, `logging` flushes its handlers."""
    monkeypatch.setattr(stderr_log, "WRITE_INTERVAL_SECONDS", 10 * PATIENCE_SECONDS)
    monkeypatch.setattr(stderr_log, "FLUSH_SECONDS", PATIENCE_SECONDS)
    with stderr_pipe(monkeypatch) as (reader, handler):
        log(handler, "last words")
        handler.flush()
        os.set_blocking(reader.fileno(), False)
        assert reader.read(100) == b"last words\n"


def test_reader_that_stops_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records beyond a bound are dropped, and their count is logged once stderr is read again."""
    with stderr_pipe(monkeypatch) as (reader, handler):
        for number in range(2_000):
            log(handler, f"{number:04} " + "x" * 1_000)
        assert 500 < handler.dropped < 1_500
        received = b""
        while b"log records dropped" not in received:
            received += reader.read(65536)
        lines = received.decode().splitlines()
        assert lines[-1] == f"log records dropped count={handler.dropped}"
        assert len(lines) - 1 + handler.dropped == 2_000


def test_service_answers_although_nobody_reads_its_output(colour_store: ModelStore) -> None:
    """More requests than a pipe has room for lines; the metric counts what was dropped."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "service", "--port", str(port)),
            *("--store", str(colour_store.root), "--no-builtin"),
        ],
        cwd=REPOSITORY,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout
        assert process.stdout.readline().startswith(b"Resident")
        path = "/" + "n" * 1_000
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS, trust_env=False
        ) as client:
            for _ in range(2_500):
                assert client.get(path).status_code == 404
            metric = re.search(
                r"(?m)^resident_log_records_dropped_total (\S+)$", client.get("/metrics").text
            )
        assert metric
        assert float(metric[1]) > 0
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)


def test_message_is_one_line_whatever_names_it_holds() -> None:
    """A newline or an escape sequence in a name is escaped; a traceback may follow."""
    record = logging.LogRecord(
        "any",
        logging.WARNING,
        __file__,
        1,
        "%s %s",
        ("one\nERROR: two\r\x1b[2K\u2028", "\udcff é"),
        (ValueError, ValueError("no"), None),
    )
    record.created = RECORDED_AT
    assert LineFormatter().format(record).splitlines() == [
        r"2026-11-30T09:30:00.007Z WARNING: one\nERROR: two\r\x1b[2K\u2028 \udcff é",
        "ValueError: no",
    ]


def test_json_has_one_object_per_record() -> None:
    """What a name holds is escaped, and the traceback is a field."""
    record = logging.LogRecord(
        "any",
        logging.ERROR,
        __file__,
        1,
        "%s",
        ("one\n\udcff",),
        (ValueError, ValueError("no"), None),
    )
    record.created = RECORDED_AT
    (line,) = JsonFormatter().format(record).splitlines()
    assert json.loads(line) == {
        "time": "2026-11-30T09:30:00.007Z",
        "level": "error",
        "logger": "any",
        "message": "one\n\udcff",
        "traceback": "ValueError: no",
    }


def test_json_log_of_a_server(colour_store: ModelStore) -> None:
    """Every line is an object; that of a prediction has its parts as fields, but no key."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with running("--store", colour_store.root, "--no-builtin", "--log-format", "json") as server:
        with server.announced().client() as client:
            headers = {"x-request-id": "json-1", "traceparent": trace, "x-api-key": "secret-key"}
            client.post("/v1/predict", content=plain("red"), headers=headers)
        server.end()
        lines = [json.loads(line) for line in server.stderr.wait_for_end().splitlines()]
    (found,) = [line for line in lines if line.get("id") == "json-1"]
    assert found.pop("milliseconds") > 0
    del found["time"], found["message"]
    assert found == {
        "level": "info",
        "logger": "service.http.access_log",
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/v1/predict",
        "status": 200,
        "code": "ok",
        "model": "colours",
        "version": 1,
        "images": 1,
        "id": "json-1",
        "trace": "0af7651916cd43dd8448eb211c80319c",
    }
    assert "secret-key" not in server.stderr.text


def test_requests_above_a_rate_are_left_out_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The limit is per second. A later second logs how many requests were left out."""
    limit = LogRateLimit(2)
    assert [limit.allows(1) for _ in range(5)] == [True, True, False, False, False]
    assert not caplog.records
    assert limit.allows(2)
    assert [record.args for record in caplog.records] == [(3,)]
    assert limit.allows(3)
    assert len(caplog.records) == 1
    assert not limit.leaves_out(3)
    assert limit.allows(3)
    assert limit.leaves_out(3)
    assert not limit.leaves_out(4)
    assert limit.allows(4)
    assert [record.args for record in caplog.records] == [(3,), (1,)]


def test_rate_limit_never_leaves_out_errors(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that were answered, or rejected because of load, are left out at a limit of 0."""
    monkeypatch.setattr(access_log, "rate_limit", LogRateLimit(0))
    scope = {"method": "GET", "path": "/", "raw_path": b"/"}
    for status in (200, 307, 404, 429, 503):
        log_request(scope, status, 0.0, RequestIds(f"id-{status}"))
    logged = [
        record.msg.status for record in caplog.records if isinstance(record.msg, LoggedRequest)
    ]
    assert logged == [404, 503]


def test_access_log_can_be_disabled(colour_store: ModelStore, tmp_path: Path) -> None:
    """With --access-log false a request leaves none."""
    with running(
        "--store", colour_store.root, "--no-builtin", "--no-access-log", cwd=tmp_path
    ) as server:
        with server.announced().client() as client:
            client.post("/v1/predict", content=plain("red"))
        server.end()
        assert "id=" not in server.stderr.wait_for_end()


def test_successful_health_checks_are_not_logged(
    server: ServerProcess, client: httpx.Client
) -> None:
    """A failed one is logged."""
    client.get("/health/live", headers={"x-request-id": "routine-1"})
    client.get("/metrics", headers={"x-request-id": "routine-2"})
    client.get("/health/nonsense", headers={"x-request-id": "routine-3"})
    assert server.stderr.wait_for("id=routine-3$")
    assert "id=routine-1" not in server.stderr.text
    assert "id=routine-2" not in server.stderr.text


def test_forwarded_client_address_is_validated(server: ServerProcess, client: httpx.Client) -> None:
    """X-Forwarded-For is logged if it can be an address or a name."""
    forged = '9.9.9.9 "POST /v1/predict" 200 0.1 ms ok colours/1 images=1 id=abc'
    client.get("/v1/models", headers={"x-forwarded-for": forged, "x-request-id": "forged-1"})
    client.get(
        "/v1/models", headers={"x-forwarded-for": "2001:db8::7", "x-request-id": "forwarded-1"}
    )
    assert server.stderr.wait_for("id=forwarded-1$")
    lines = {line.rpartition("=")[2]: line for line in server.stderr.text.splitlines()}
    assert ' INFO:    - "GET /v1/models" 200 ' in lines["forged-1"]
    assert ' INFO:    2001:db8::7 "GET /v1/models" 200 ' in lines["forwarded-1"]
