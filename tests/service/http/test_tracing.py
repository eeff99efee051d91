"""Traces of a real server, as an OTLP receiver gets them."""

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from asgi_application import started, until
from colour_model import MODEL, make_store, plain, publish
from otlp_receiver import Spans, attributes_of, receiving
from pydantic import ValidationError
from server_process import REPOSITORY, ServerProcess, running

from model_store.store import ModelStore
from service.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
ROUTE = "POST /v1/models/{model}/predict"
PATH = f"/v1/models/{MODEL}/predict"
RED = plain("red")
SERVER, ERROR = 2, 2
"""Values of the protocol: a span's kind, and its status."""


@pytest.fixture(scope="module")
def spans() -> Iterator[Spans]:
    with receiving() as received:
        yield received


@pytest.fixture(scope="module")
def traced(
    spans: Spans, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, httpx.Client]]:
    store = make_store(tmp_path_factory.mktemp("traced") / "store")
    publish(store)
    flags = ("--store", store.root, "--no-builtin", "--otlp-endpoint", spans.address)
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_RESOURCE_ATTRIBUTES": "team=vision"}
    with running(*flags, environment=environment) as server, server.announced().client() as client:
        yield server, client


def test_a_request_is_a_span_with_its_stages(
    traced: tuple[ServerProcess, httpx.Client], spans: Spans
) -> None:
    """The span continues the client's trace. The response and the log have its ids."""
    server, client = traced
    spans.spans.clear()
    headers = {"traceparent": TRACEPARENT, "x-request-id": "mine"}
    answer = client.post(PATH, content=RED, headers=headers)
    (span,) = spans.wait_for(ROUTE)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.kind == SERVER
    assert answer.headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert server.stderr.wait_for(f"id=mine trace={TRACE}$")
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/models/{model}/predict",
        "http.response.status_code": 200,
        "resident.model": MODEL,
        "resident.version": 1,
        "resident.images": 1,
        "resident.outcome": "ok",
        "resident.request_id": "mine",
    }
    assert expected.items() <= attributes_of(span).items()
    children = spans.children(span)
    assert set(children) == {"decode", "queue", "infer", "batch"}
    assert {child.trace_id for child in children.values()} == {span.trace_id}
    times = [
        span.start_time_unix_nano,
        children["decode"].start_time_unix_nano,
        children["decode"].end_time_unix_nano,
        children["queue"].end_time_unix_nano,
        children["infer"].end_time_unix_nano,
        span.end_time_unix_nano,
    ]
    assert times == sorted(times)
    assert children["queue"].start_time_unix_nano == children["decode"].end_time_unix_nano
    assert spans.resource["service.name"] == "resident"
    assert spans.resource["team"] == "vision"


def test_errors_and_other_routes_have_spans_too(
    traced: tuple[ServerProcess, httpx.Client], spans: Spans
) -> None:
    """A client's error is no error of the server. Health checks and scrapes have no spans."""
    _, client = traced
    spans.spans.clear()
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert client.get(path).status_code == 200
    assert client.post(PATH, content=b"nothing").status_code == 400
    assert client.get("/v1/models").status_code == 200
    assert client.request("PROPFIND", "/v1/models").status_code == 405
    (rejected,), (listed,) = spans.wait_for(ROUTE), spans.wait_for("GET")
    spans.wait_for("HTTP")
    assert attributes_of(rejected)["resident.outcome"] == "not_an_image"
    assert rejected.status.code != ERROR
    assert not spans.children(rejected)
    assert attributes_of(listed)["url.path"] == "/v1/models"
    assert {span.name for span in spans.spans} == {ROUTE, "GET", "HTTP"}


def test_a_request_without_a_context_starts_a_trace(
    traced: tuple[ServerProcess, httpx.Client], spans: Spans
) -> None:
    _, client = traced
    spans.spans.clear()
    answers = [
        client.post(PATH, content=RED, headers=headers) for headers in ({}, {"traceparent": "x"})
    ]
    ids = {answer.headers["traceparent"].split("-")[1] for answer in answers}
    assert {span.trace_id.hex() for span in spans.wait_for(ROUTE, 2)} == ids
    assert len(ids) == 2


def test_a_request_that_the_client_does_not_sample_has_no_span(
    traced: tuple[ServerProcess, httpx.Client], spans: Spans
) -> None:
    """The response still has the client's trace id."""
    _, client = traced
    spans.spans.clear()
    unsampled = client.post(PATH, content=RED, headers={"traceparent": TRACEPARENT[:-1] + "0"})
    assert unsampled.headers["traceparent"].split("-")[1::2] == [TRACE, "00"]
    client.post(PATH, content=RED)
    spans.wait_for(ROUTE)


@pytest.mark.anyio
async def test_a_batch_has_a_link_to_each_of_its_requests(colour_store: ModelStore) -> None:
    """The `infer` spans of the requests have a link to the batch."""
    with receiving() as spans:
        async with started(colour_store.root, otlp_endpoint=spans.address) as application:
            model = application.hold_model()
            posts = [asyncio.ensure_future(application.client.post(PATH, content=RED))]
            await model.begun()
            posts += [
                asyncio.ensure_future(application.client.post(PATH, content=RED)) for _ in range(3)
            ]
            await until(lambda: application.served().batcher.waiting == 3)
            model.gate.set()
            assert [answer.status_code for answer in await asyncio.gather(*posts)] == [200] * 4
        requests, batches = spans.named(ROUTE), spans.named("batch")
    sizes = sorted(attributes_of(batch)["resident.images"] for batch in batches)
    assert sizes == [1, 3], "everything is sent before the service has ended"
    large = max(batches, key=lambda batch: attributes_of(batch)["resident.images"])
    linked = {link.span_id for link in large.links}
    assert len(linked) == 3
    assert linked < {request.span_id for request in requests}
    assert large.parent_span_id in linked
    for request in requests:
        infer = spans.children(request)["infer"]
        expected = (
            large if request.span_id in linked else min(batches, key=lambda it: len(it.links))
        )
        assert [link.span_id for link in infer.links] == [expected.span_id]


@pytest.mark.slow
def test_a_collector_that_is_gone_harms_nothing(tmp_path: Path) -> None:
    """The address refuses connections, or accepts them and never answers."""
    store = make_store(tmp_path / "store")
    publish(store)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (1, silent.getsockname()[1]):
            flags = ("--store", store.root, "--no-builtin")
            endpoint = ("--otlp-endpoint", f"http://127.0.0.1:{port}")
            with running(*flags, *endpoint) as server, server.announced().client() as client:
                for _ in range(20):
                    assert client.post(PATH, content=RED).status_code == 200
                client.close()
                assert server.end() == 0
            assert "Traceback" not in server.stderr.text
            assert len(re.findall("traces", server.stderr.text)) <= 1


def test_without_the_setting_opentelemetry_is_not_imported(colour_store: ModelStore) -> None:
    code = """if True:
        import sys
        from service.app import create_app
        from service.settings import Settings
        create_app(Settings(store=sys.argv[1], builtin=False))
        print([name for name in sys.modules if name.startswith("opentelemetry.sdk")])
    """
    command = [sys.executable, "-c", code, str(colour_store.root)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://localhost:4317", "http://", "x"])
def test_an_endpoint_must_be_a_base_url(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="base URL"):
        Settings(otlp_endpoint=endpoint)
