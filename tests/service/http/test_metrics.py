"""Metrics over real HTTP."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from colour_model import MODEL, make_store, plain, publish, publish_deviating
from exposition import exposed, find_sample
from prometheus_client.parser import text_string_to_metric_families
from server_process import ServerProcess, running

from model_store.provenance import Metrics, TopScores
from service.engine.priority import INTERACTIVE
from service.http.metrics import ServiceMetrics
from service.prediction.request import RequestRecord
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


def buckets(text: str, name: str, labels: Mapping[str, str]) -> dict[str, float]:
    """Each upper bound of a histogram and the count below it."""
    return {
        sample.labels["le"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"{name}_bucket"
        and sample.labels == {**labels, "le": sample.labels["le"]}
    }


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
    """One version serves, one drains, one loads and one failed."""
    publish(registry.store)
    reconcile(registry)
    with registry.lease(MODEL):
        publish(registry.store)
        publish_deviating(registry.store)
        reconcile(registry)
        with registry.exclusive() as change:
            change.put(replace(registry.models[MODEL], loading=4))
        text = exposed(ServiceMetrics(registry))
    counts = {
        state: find_sample(text, "resident_versions", {"model": MODEL, "state": state})
        for state in ("loading", "ready", "unloading", "error")
    }
    assert counts == {"loading": 1, "ready": 1, "unloading": 1, "error": 1}


def test_time_is_counted_in_every_bucket_that_holds_it(registry: Registry) -> None:
    """A time that is equal to a bound is below it; the bounds are an interface for dashboards."""
    metrics = ServiceMetrics(registry)
    for seconds in (0.0005, 0.05, 0.06, 31.0):
        metrics.observe(RequestRecord(model=MODEL, seconds={"decode": seconds}), "not_an_image")
    text, labels = exposed(metrics), {"model": MODEL, "stage": "decode"}
    assert buckets(text, "resident_stage_seconds", labels) == {
        **dict.fromkeys(("0.001", "0.0025", "0.005", "0.01", "0.025"), 1),
        "0.05": 2,
        **dict.fromkeys(("0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0"), 3),
        "+Inf": 4,
    }
    assert find_sample(text, "resident_stage_seconds_sum", labels) == pytest.approx(31.1105)


def test_total_time_counts_from_the_start_of_the_request(registry: Registry) -> None:
    """Also for a request without stages."""
    metrics, before = ServiceMetrics(registry), time.monotonic()
    metrics.observe(RequestRecord(started=before - 20, model=MODEL), "overloaded")
    elapsed = time.monotonic() - before
    labels = {"model": MODEL, "stage": "total"}
    assert 20 <= find_sample(exposed(metrics), "resident_stage_seconds_sum", labels) <= 20 + elapsed


def test_only_classified_images_are_counted(registry: Registry) -> None:
    """Neither the failed images of an answered request nor those of a request that failed."""
    metrics = ServiceMetrics(registry)
    for images, failed, outcome in ((5, 2, "ok"), (4, 0, "ok"), (8, 0, "deadline_exceeded")):
        record = RequestRecord(model=MODEL, version=3, images=images, failed_images=failed)
        metrics.observe(record, outcome)
    text = exposed(metrics)
    assert find_sample(text, "resident_images_total", {"model": MODEL, "version": "3"}) == 7
    for outcome, count in (("ok", 2), ("deadline_exceeded", 1)):
        labels = {"model": MODEL, "outcome": outcome}
        assert find_sample(text, "resident_requests_total", labels) == count


def test_batches_are_counted_in_every_bucket_that_holds_them(registry: Registry) -> None:
    """The bounds are powers of two; larger batches are only in the last bucket."""
    publish(registry.store)
    reconcile(registry)
    loaded = registry.find(MODEL)
    loaded.batcher.batch_sizes.update({1: 4, 3: 2, 32: 1, 65: 1})
    loaded.admitted.add(6, INTERACTIVE)
    text, labels = exposed(ServiceMetrics(registry)), {"model": MODEL, "version": "1"}
    assert buckets(text, "resident_batch_size", labels) == {
        **dict.fromkeys(("1.0", "2.0"), 4),
        **dict.fromkeys(("4.0", "8.0", "16.0"), 6),
        **dict.fromkeys(("32.0", "64.0"), 7),
        "+Inf": 8,
    }
    assert find_sample(text, "resident_batch_size_sum", labels) == 4 + 6 + 32 + 65
    assert find_sample(text, "resident_pending_images", labels) == 6
    assert find_sample(text, "resident_queue_images", labels) == 0


def test_the_top_scores_of_training_are_beside_those_of_the_newest_images(
    registry: Registry,
) -> None:
    """A version of an older release has none."""
    scores = TopScores(mean=0.8, percentiles={"5": 0.5, "50": 0.9, "95": 1.0})
    publish(registry.store, metrics=Metrics(top1=0.9, test_images=100, top_scores=scores))
    publish(registry.store, "older", metrics=Metrics(top1=0.9, test_images=100))
    reconcile(registry)
    text = exposed(ServiceMetrics(registry))
    labels = {"model": MODEL, "version": "1"}
    assert find_sample(text, "resident_test_top_score_mean_ratio", labels) == 0.8
    for percentile, score in scores.percentiles.items():
        of_one = {**labels, "percentile": percentile}
        assert find_sample(text, "resident_test_top_score_ratio", of_one) == score
    assert 'resident_test_accuracy_ratio{model="older"' in text
    assert 'resident_test_top_score_mean_ratio{model="older"' not in text
