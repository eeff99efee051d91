"""A real service over a store in a real S3 server: publishing, promotion and outage."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from colour_model import MODEL, WEIGHTS, plain, publish
from http_problems import check_problem
from operating import eventually
from s3_server import S3Server, running_s3
from server_process import running

from model_store.remote_store import RemoteModelStore


@pytest.fixture
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


def test_a_service_follows_a_store_in_s3_through_an_outage(s3: S3Server, tmp_path: Path) -> None:
    """A promotion takes effect, requests succeed during an outage, and later versions serve."""
    url = f"s3://{s3.new_bucket()}/models"
    store = RemoteModelStore(url, tmp_path / "publisher", None)
    publish(store)
    path, image = f"/v1/models/{MODEL}/predict", plain("red")
    arguments = ("--store", url, "--no-builtin", "--store-poll-seconds", 0.1)
    with (
        running(*arguments, "--cache", tmp_path / "cache") as server,
        server.announced().client() as client,
    ):
        store.promote(MODEL, 1)
        publish(store, weights=WEIGHTS[:, ::-1].copy(), golden_weights=WEIGHTS[:, ::-1].copy())
        assert client.post(path, content=image).json()["version"] == 1
        store.promote(MODEL, 2)
        eventually(lambda: client.post(path, content=image).json()["version"], 2)
        s3.stop()
        assert server.stderr.wait_for(r"model store unreadable")
        answer = client.post(path, content=image)
        assert (answer.status_code, answer.json()["version"]) == (200, 2)
        assert client.get("/health/live").status_code == 200
        s3.start()
        assert server.stderr.wait_for(r"model store readable again")
        store.rollback(MODEL)
        eventually(lambda: client.post(path, content=image).json()["version"], 1)


def test_details_of_a_version_fetch_no_model(s3: S3Server, tmp_path: Path) -> None:
    """Clients need no key for them. Only the version that serves is downloaded completely."""
    url = f"s3://{s3.new_bucket()}/models"
    store = RemoteModelStore(url, tmp_path / "publisher", None)
    for _ in range(2):
        publish(store)
    with (
        running("--store", url, "--no-builtin", "--cache", tmp_path / "cache") as server,
        server.announced().client() as client,
    ):
        path = f"/v1/models/{MODEL}/versions/1"
        assert client.get(path).json()["state"] == "available"
        check_problem(client.get(f"{path}/report"), 404, "report_not_found")
        graphs = list((tmp_path / "cache/versions").glob("*/model.onnx"))
        assert len(graphs) == 1
