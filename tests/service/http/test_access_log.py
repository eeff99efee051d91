"""Request ids and the line of a request, by a real server."""

import asyncio
import logging
import re
import time
from pathlib import Path

import httpx
import pytest
from colour_model import plain
from server_process import ServerProcess, running

from model_store.store import ModelStore
from service.http.access_log import LineFormatter, RequestLog


def test_a_request_id_is_given_and_one_that_came_is_kept(client: httpx.Client) -> None:
    """In every answer: a prediction's, an error's, another route's."""
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
def test_an_id_that_can_not_stand_in_a_log_is_replaced(client: httpx.Client, sent: str) -> None:
    """Nobody writes into another's log line."""
    assert re.fullmatch(
        "[0-9a-f]{16}",
        client.get("/health/live", headers={"x-request-id": sent}).headers["x-request-id"],
    )


def test_a_request_is_one_line(server: ServerProcess, client: httpx.Client) -> None:
    """Client, method, path as it was sent, status, what was predicted, and the id that the client got."""
    found = client.post("/v1/models/colours/predict?top_k=1", content=plain("red"))
    identity = found.headers["x-request-id"]
    pattern = rf'127\.0\.0\.1 "POST /v1/models/colours/predict" 200 [0-9.]+ ms ok colours/1 images=1 id={identity}$'
    assert server.stderr.wait_for(pattern)
    missing = client.get("/v1/mod%0Aels")
    assert server.stderr.wait_for(
        rf'"GET /v1/mod%0Aels" 404 [0-9.]+ ms id={missing.headers["x-request-id"]}$'
    )


@pytest.mark.anyio
async def test_requests_that_end_together_share_a_record(caplog: pytest.LogCaptureFixture) -> None:
    """One line each, in the order that they ended; those of a later turn of the event loop have their own."""
    caplog.set_level(logging.INFO)
    log, scope = RequestLog(), {"method": "GET", "path": "/", "raw_path": b"/"}
    for names in (b"ab", b"c"):
        for name in names:
            log.add(scope, 200, time.monotonic(), bytes([name]))
        await asyncio.sleep(0)
    assert [re.findall("id=(.)$", message, re.MULTILINE) for message in caplog.messages] == [
        ["a", "b"],
        ["c"],
    ]


def test_a_message_of_several_lines_has_its_level_on_each() -> None:
    """But not what follows it of an exception."""
    record = logging.LogRecord(
        "any",
        logging.WARNING,
        __file__,
        1,
        "%s\n%s",
        ("one", "two"),
        (ValueError, ValueError("no"), None),
    )
    assert LineFormatter().format(record).splitlines() == [
        "WARNING:     one",
        "WARNING:     two",
        "ValueError: no",
    ]


def test_lines_can_be_left_out(colour_store: ModelStore, tmp_path: Path) -> None:
    """With --access-log false a request leaves none."""
    with running(
        "--store", colour_store.root, "--no-builtin", "--no-access-log", cwd=tmp_path
    ) as server:
        with server.announced().client() as client:
            client.post("/v1/predict", content=plain("red"))
        server.end()
        assert "id=" not in server.stderr.wait_for_end()


def test_routine_is_not_logged_where_it_goes_well(
    server: ServerProcess, client: httpx.Client
) -> None:
    """A health check every 5 s would hide what matters; one that fails is seen."""
    client.get("/health/live", headers={"x-request-id": "routine-1"})
    client.get("/metrics", headers={"x-request-id": "routine-2"})
    client.get("/health/nonsense", headers={"x-request-id": "routine-3"})
    assert server.stderr.wait_for("id=routine-3$")
    assert "id=routine-1" not in server.stderr.text
    assert "id=routine-2" not in server.stderr.text


def test_who_asks_writes_no_text_into_the_log(server: ServerProcess, client: httpx.Client) -> None:
    """A proxy's word for the client is taken where it can be an address or a name."""
    forged = '9.9.9.9 "POST /v1/predict" 200 0.1 ms ok colours/1 images=1 id=abc'
    client.get("/v1/models", headers={"x-forwarded-for": forged, "x-request-id": "forged-1"})
    client.get(
        "/v1/models", headers={"x-forwarded-for": "2001:db8::7", "x-request-id": "forwarded-1"}
    )
    assert server.stderr.wait_for("id=forwarded-1$")
    lines = {line.rpartition("=")[2]: line for line in server.stderr.text.splitlines()}
    assert lines["forged-1"].startswith('INFO:     - "GET /v1/models" 200 ')
    assert lines["forwarded-1"].startswith('INFO:     2001:db8::7 "GET /v1/models" 200 ')
