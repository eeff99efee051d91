"""Metrics over real HTTP."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from colour_model import MODEL, make_store, plain, publish, publish_deviating
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from server_process import ServerProcess, running

from service.http.metrics import ServiceMetrics
from service.versions.reconciler import reconcile
from service.versions.registry import Registry

Sample = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that no other test uses."""
    store = make_store(tmp_path / "store")
    publish(store)
    with running("--store", store.root, "--no-builtin") as server:
        yield server.announced()


def sample(client: httpx.Client, name: str, **labels: str) -> float:
    """The value of one sample; it must exist."""
    return find_sample(client.get("/metrics").text, name, labels)


def find_sample(text: str, name: str, labels: Mapping[str, str]) -> float:
    (value,) = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return value


def test_outcomes_are_counted_once(own_server: ServerProcess) -> None:
    """Each outcome is counted under its code; the name of an unknown model becomes no label."""
    with own_server.client() as client:
        assert client.post("/v1/predict", content=plain("red")).status_code == 200
        assert client.post("/v1/predict", content=b"nothing").status_code == 400
        assert client.post("/v1/models/nonsense/predict", content=plain("red")).status_code == 404
        assert sample(client, "resident_requests_total", model="colours", outcome="ok") == 1
        assert (
            sample(client, "resident_requests_total", model="colours", outcome="not_an_image") == 1
        )
        assert sample(client, "resident_requests_total", model="", outcome="model_not_found") == 1
        assert sample(client, "resident_images_total", model="colours", version="1") == 1
        assert "nonsense" not in client.get("/metrics").text


def test_stages_and_batches_are_observed(own_server: ServerProcess) -> None:
    """Each stage once per request, and each batch by its size."""
    with own_server.client() as client:
        for _ in range(3):
            client.post("/v1/predict", content=plain("red"))
        for stage in ("receive", "decode", "queue", "inference", "total"):
            assert sample(client, "resident_stage_seconds_count", model="colours", stage=stage) == 3
            assert sample(client, "resident_stage_seconds_sum", model="colours", stage=stage) > 0
        assert sample(client, "resident_batch_size_count", model="colours", version="1") == 3
        assert (
            sample(client, "resident_batch_size_bucket", model="colours", version="1", le="1.0")
            == 3
        )
        assert sample(client, "resident_batch_size_sum", model="colours", version="1") == 3


def test_versions_queues_and_process_are_shown(own_server: ServerProcess) -> None:
    """Versions by state, empty queues, and the memory of the process."""
    with own_server.client() as client:
        assert sample(client, "resident_versions", model="colours", state="ready") == 1
        assert sample(client, "resident_versions", model="colours", state="error") == 0
        assert sample(client, "resident_queue_images", model="colours", version="1") == 0
        assert sample(client, "resident_pending_images", model="colours", version="1") == 0
        assert sample(client, "process_resident_memory_bytes") > 1e7


def test_openmetrics_is_sent_if_accepted(own_server: ServerProcess) -> None:
    """Prometheus asks for OpenMetrics; a browser gets the text format."""
    with own_server.client() as client:
        plain_text = client.get("/metrics")
        assert plain_text.headers["content-type"].startswith("text/plain")
        other = client.get(
            "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
        )
        assert other.headers["content-type"].startswith("application/openmetrics-text")
        assert other.text.endswith("# EOF\n")
        strange = client.get("/metrics", headers={"accept": "text/plain; version=abc"})
        assert (strange.status_code, strange.headers["content-type"].split(";")[0]) == (
            200,
            "text/plain",
        )


def test_versions_are_counted_in_every_state(registry: Registry) -> None:
    """One version serves, one drains and one failed."""
    publish(registry.store)
    reconcile(registry)
    with registry.lease(MODEL):
        publish(registry.store)
        publish_deviating(registry.store)
        reconcile(registry)
        text = generate_latest(ServiceMetrics(registry).registry).decode()
    counts = {
        state: find_sample(text, "resident_versions", {"model": MODEL, "state": state})
        for state in ("loading", "ready", "unloading", "error")
    }
    assert counts == {"loading": 0, "ready": 1, "unloading": 1, "error": 1}
